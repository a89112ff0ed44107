//go:build cuda

package cuda

import (
	"slices"
	"time"

	"chulengo/kernels/cuda/driver"
)

// KernelTime is what one kernel took in all its launches from one stage.
type KernelTime struct {
	Stage    string // attn_in, attend, …; "": before the forward pass
	Name     string
	Launches int
	Time     time.Duration
}

// profile measures every launch between two events. Launches then do not overlap, and steps are not replayed as graphs: the
// sum is more than a step takes without it.
type profile struct {
	spare  []*driver.Event
	marks  []mark
	totals map[[2]string]*KernelTime // by stage and name
	stage  string                    // that runs
}

type mark struct {
	stage, name string
	begin, end  *driver.Event
}

// event gives one that no mark uses.
func (p *profile) event(g *gpu) (*driver.Event, error) {
	if n := len(p.spare); n > 0 {
		e := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return e, nil
	}
	return g.NewEvent()
}

// around runs enqueue between two events.
func (p *profile) around(g *gpu, name string, enqueue func() error) error {
	begin, err := p.event(g)
	if err != nil {
		return err
	}
	end, err := p.event(g)
	if err != nil {
		return err
	}
	if err := g.main.Record(begin); err != nil {
		return err
	}
	if err := enqueue(); err != nil {
		return err
	}
	p.marks = append(p.marks, mark{p.stage, name, begin, end})
	return g.main.Record(end)
}

// settle adds up what was measured; the stream has been waited for.
func (p *profile) settle() error {
	for _, m := range p.marks {
		ms, err := m.end.Since(m.begin)
		if err != nil {
			return err
		}
		key := [2]string{m.stage, m.name}
		t := p.totals[key]
		if t == nil {
			t = &KernelTime{Stage: m.stage, Name: m.name}
			p.totals[key] = t
		}
		t.Launches++
		t.Time += time.Duration(ms * float64(time.Millisecond))
		p.spare = append(p.spare, m.begin, m.end)
	}
	p.marks = p.marks[:0]
	return nil
}

// stage says which stage the launches that follow belong to.
func (d *Device) stage(name string) {
	if p := d.gpu.profile; p != nil {
		p.stage = name
	}
}

// Profile gives the kernels' times since the last call, the longest first. The device must have been opened with
// Options.Profile.
func (d *Device) Profile() []KernelTime {
	var list []KernelTime
	if p := d.gpu.profile; p != nil {
		for _, t := range p.totals {
			list = append(list, *t)
		}
		clear(p.totals)
	}
	slices.SortFunc(list, func(a, b KernelTime) int { return int(b.Time - a.Time) })
	return list
}
