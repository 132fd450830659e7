// Package imports holds the import graph of hpcc as text, and a test that
// compares it with the code.
package imports
