// The empty program: what starting any Go program costs. The benchmark of the
// wrapper's start is a ratio to it.
package main

func main() {}
