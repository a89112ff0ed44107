//go:build cuda

package cuda

import (
	"fmt"

	"chulengo/kernels/cuda/nccl"
)

// What a Group is where other processes have ranks, too (package hosts): every process records the same step and runs its own ranks.

// OpenPart opens the GPUs of ranks first, first+1 … of so many. Before the first step, Meet joins them with the others.
func OpenPart(o Options, ordinals []int, first, size int) (*Group, error) {
	if n := len(ordinals); n < 1 || first < 0 || first+n > size || size > maxRanks {
		return nil, fmt.Errorf("kernels/cuda: want ranks of at most %d, got %d from %d of %d", maxRanks, n, first, size)
	}
	if o.Way != AnyWay && o.Way != ByNCCL {
		return nil, fmt.Errorf("kernels/cuda: want NCCL between several processes, got way %d", o.Way)
	}
	if err := nccl.Open(); err != nil {
		return nil, err
	}
	g, err := openGroup(o, ordinals, first, size)
	if err == nil {
		g.way = ByNCCL
	}
	return g, err
}

// NewKey makes what all processes must know to meet; its process must live as long as others try.
func (g *Group) NewKey() ([]byte, error) {
	id, err := nccl.NewID()
	return id[:], err
}

// Meet returns when all processes have called it with the same key.
func (g *Group) Meet(key []byte) error {
	if len(key) != len(nccl.ID{}) {
		return fmt.Errorf("kernels/cuda: want a key of %d bytes, got %d", len(nccl.ID{}), len(key))
	}
	return g.join(nccl.ID(key))
}

// Announce has f called in every step, when the batch was found to be good and before anything waits for other processes.
func (g *Group) Announce(f func() error) { g.announce = f }

// Abort gives up what waits for other processes.
func (g *Group) Abort(why error) { g.abort(why) }
