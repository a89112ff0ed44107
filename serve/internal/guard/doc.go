// Package guard decides which requests reach the server, before a handler reads their bodies.
//
// # Words
//
// A key is a secret text that a program sends with every request, as Authorization: Bearer KEY or x-api-key: KEY. A
// peer is the machine at the other end of the connection. A trusted proxy is a peer whose X-Forwarded-For, -Host and
// -Proto are believed; everybody else's are ignored.
//
// # Order
//
// Host, then origin, then key, then rate. The Host list comes first because it is what keeps a page of another site,
// whose name an attacker's name server has turned into our address (DNS rebinding), from being taken for ours: a
// browser sends the name that it believes in. Names that no attacker can point at us are admitted: IP literals,
// localhost and what ends in .localhost, the name that the server listens on, and those that its operator lists.
//
// # Rates
//
// With keys every key has a bucket of its own; without, every client address has one. An address of IPv6 counts with
// its /64, of which one machine usually has all.
package guard
