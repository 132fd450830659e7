// Package tiers tries shared caches as builds on several machines use them: the
// machines are network namespaces, the cache is a bucket of a real server, and the
// network between them fails. It needs root.
package tiers
