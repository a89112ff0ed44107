//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"runtime"

	"chulengo/kernels/cuda/nccl"
)

// Way is how the ranks of a group bring their parts of a sum together. Whichever it is, they have the same bits.
type Way int

const (
	AnyWay  Way = iota // the first of these that works
	ByPeers            // they read and write each other's memory
	ByNCCL             // NCCL gathers the parts
	ByHost             // they meet in the host's memory: a sum of a long prompt crosses the bus twice
)

// NewGroup opens GPUs that are to run a model together, 2 to 8 of them. An ordinal may come more than once: ranks then share that
// GPU, which shows that the logic is right and nothing else; o.NoOverlap is implied, since
// a kernel that waits for another rank must leave that one's kernels room. NCCL does not work then.
func NewGroup(o Options, ordinals []int) (*Group, error) {
	if len(ordinals) < 2 || len(ordinals) > maxRanks {
		return nil, fmt.Errorf("kernels/cuda: want 2 to %d GPUs for a group, got %d", maxRanks, len(ordinals))
	}
	g, err := openGroup(o, ordinals, 0, len(ordinals))
	if err != nil {
		return nil, err
	}
	if err := g.choose(o.Way); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// choose decides how the ranks of one process meet.
func (g *Group) choose(way Way) error {
	g.way = way
	var missing error
	if !g.host && way == AnyWay {
		g.way = ByPeers
	} else if way == AnyWay || way == ByNCCL {
		g.way = ByNCCL
		var id nccl.ID
		if id, missing = nccl.NewID(); missing == nil && g.same {
			missing = errors.New("kernels/cuda: NCCL: want a GPU for each rank, got one that has several")
		}
		if missing == nil {
			missing = g.join(id)
		}
		if missing == nil {
			return nil
		}
		if way == AnyWay {
			g.way = ByHost
		}
	}
	switch {
	case g.way == ByNCCL:
		return missing
	case g.way == ByPeers && g.host:
		return errors.New("kernels/cuda: want GPUs that reach each other's memory, got some that do not")
	}
	g.host = g.way == ByHost
	return nil
}

// openGroup opens the GPUs of ranks first, first+1 … of so many.
func openGroup(o Options, ordinals []int, first, size int) (*Group, error) {
	g := &Group{attn: map[int]*cutWeight{}, first: first, size: size}
	seen := map[int]bool{}
	for _, n := range ordinals {
		g.same = g.same || seen[n]
		seen[n] = true
	}
	o.NoOverlap = o.NoOverlap || g.same
	for i, n := range ordinals {
		o.Ordinal = n
		d, err := New(o)
		if err != nil {
			g.Close()
			return nil, err
		}
		d.rank, d.group = first+i, g
		g.ranks = append(g.ranks, d)
	}
	for _, a := range g.ranks {
		for _, b := range g.ranks {
			if a == b {
				continue
			}
			switch ok, err := a.gpu.Reach(b.gpu.Device); {
			case err != nil:
				g.Close()
				return nil, err
			case !ok:
				g.host = true
			}
		}
	}
	for range g.ranks[1:] {
		jobs := make(chan func())
		g.jobs = append(g.jobs, jobs)
		go func() {
			runtime.LockOSThread()
			for job := range jobs {
				job()
			}
		}()
	}
	return g, nil
}
