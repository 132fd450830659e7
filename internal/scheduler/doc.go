// Package scheduler is the service that tells clients which worker compiles for
// them. It only routes: sources, objects, commands and their digests go from
// client to worker and never come here. What it knows of a compile is the tenant
// and the image.
//
// The life of a route:
//
//   - Workers send heartbeats (RegistryService): address and TLS pin, platform,
//     load, the images they have and the sessions that are warm. The registry
//     keeps the last one of each, in memory. A worker that is silent for longer
//     than the expiry, or that says it is draining, gets no new clients.
//   - A client asks for workers for one image (SchedulerService.Route). Its
//     credential says which tenant it is of and which images that may use.
//   - Route (route.go), a pure function, orders the workers.
//   - The client gets the best three, each with its address, its pin and a task
//     token, which is signed for that worker alone and lives for minutes.
//
// Nothing here is lost by a restart but the registry, which the next heartbeats
// fill: signing keys are in files, and tokens that are out stay good, for workers
// check them without asking. For one interval after the start, a client that
// finds no worker is kept waiting for one instead of being sent away.
package scheduler
