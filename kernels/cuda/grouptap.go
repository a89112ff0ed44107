//go:build cuda

package cuda

import "chulengo/kernels"

// Taps of a group: every rank runs its own. Values of heads are cut by columns; all ranks have all of the others, and change
// them alike.

// headPart says which part of the projections has the columns of a hook that is cut.
var headPart = map[kernels.Hook]int{
	kernels.HookQ: 0, kernels.HookRotQ: 0, kernels.HookZ: 0,
	kernels.HookK: 1, kernels.HookRotK: 1, kernels.HookV: 2,
}

// tapCut is a rank's part of a tap: columns from to to of the tap's buffer.
type tapCut struct{ from, to, width int }

// cutTap gives a rank's tap. One without rows keeps its place among the others.
func (g *Group) cutTap(t kernels.Tap, rank int) (kernels.Tap, tapCut) {
	part, cut := headPart[t.At.Hook]
	w := g.attn[t.At.Layer]
	if !cut || w == nil {
		c := tapCut{}
		if len(t.Rows) > 0 {
			c.width = len(t.Buf) / len(t.Rows)
		}
		c.to = c.width
		if rank > 0 && t.Op == kernels.Capture {
			t.Buf = make([]float32, len(t.Buf))
		}
		return t, c
	}
	has, first, end := w.parts[g.first+rank][part], 0, w.spec.Parts[part]
	if t.Cols != [2]int32{} {
		first, end = int(t.Cols[0]), int(t.Cols[1])
	}
	from, to := max(first, has.From), min(end, has.To)
	if from >= to {
		t.Rows, t.Buf = nil, nil
		return t, tapCut{}
	}
	c := tapCut{from - first, to - first, end - first}
	whole := t.Buf
	t.Cols = [2]int32{int32(from - has.From), int32(to - has.From)}
	t.Buf = nil
	for at := c.from; at < len(whole); at += c.width {
		t.Buf = append(t.Buf, whole[at:at+to-from]...)
	}
	return t, c
}

// Columns are those of a tap's buffer that ranks of this process alone capture, after the tap's step.
func (g *Group) Columns(t kernels.Tap) (from, to int) {
	if _, cut := headPart[t.At.Hook]; !cut {
		return 0, 0
	}
	for i := range g.ranks {
		own, c := g.cutTap(t, i)
		if len(own.Rows) == 0 {
			continue
		}
		if to == 0 {
			from = c.from
		}
		to = c.to
	}
	return from, to
}

func (g *Group) cutTaps(b *kernels.Batch) [][]kernels.Tap {
	all := make([][]kernels.Tap, len(g.ranks))
	for rank := range all {
		for _, t := range b.Taps {
			own, _ := g.cutTap(t, rank)
			all[rank] = append(all[rank], own)
		}
	}
	return all
}

// joinTaps puts captured values together, those that all ranks have from the first.
func (g *Group) joinTaps(b *kernels.Batch, all [][]kernels.Tap) {
	for i, t := range b.Taps {
		for rank := len(all) - 1; rank >= 0 && t.Op == kernels.Capture; rank-- {
			own := all[rank][i]
			if _, cut := headPart[t.At.Hook]; !cut || len(own.Rows) == 0 {
				continue
			}
			_, c := g.cutTap(t, rank)
			for row := range own.Rows {
				copy(t.Buf[row*c.width+c.from:row*c.width+c.to], own.Buf[row*(c.to-c.from):])
			}
		}
	}
}
