// Package hosts runs a model in several processes, on one host or on several, each of which has as many GPUs. Process 0 leads: it has
// the engine, and Device is what the engine sees. The others follow: whatever the leader's device is asked, theirs are, too
// (Follower.Serve). Only what must be known to do the same goes from process to process: tokens, positions, pages, pixels. The sums
// in between are the devices' business (kernels/cuda, over NCCL).
//
// # On the wire
//
// One TCP connection for each follower. A frame is a length of four bytes, big-endian, and so many bytes of a gob stream, which hold
// one message. The first is the follower's hello: version, which process it is, what it has loaded; the leader refuses what does
// not fit. From then on the leader asks and the follower answers, in order. Both say every second that they are there: who hears
// nothing for ten seconds, or finds the connection closed, gives up the step that runs. A process that is lost stays lost:
// all have to start again.
//
// Nothing is encrypted, and whoever reaches the port while followers are waited for may say that it is one: it must be open to the
// other hosts alone.
package hosts
