//go:build !unix

package serve

// startCluster needs users and sockets as unix has them.
func startCluster() (dir string, end func(), err error) { return "", nil, errNoPostgres }
