package engine

import (
	"fmt"

	"chulengo/kernels"
)

// Check walks every invariant of the engine between two steps: each page is free or owned by one sequence, promises
// cover what is held, tables hold exactly what the position needs, and the last batch was well formed.
func (e *Engine) Check() error {
	for g, p := range e.pools {
		owner := make([]int, len(p.taken))
		for _, page := range p.free {
			owner[page]++
			if p.taken[page] {
				return fmt.Errorf("group %d: page %d is free and taken", g, page)
			}
		}
		promised := 0
		for i, s := range e.running {
			t := &s.tables[g]
			promised += t.promised
			held := 0
			for _, l := range t.live {
				held += len(l.pages)
				for _, page := range l.pages {
					owner[page]++
					if !p.taken[page] {
						return fmt.Errorf("group %d: page %d of sequence %d is not taken", g, page, i)
					}
				}
			}
			if held > t.promised {
				return fmt.Errorf("group %d: sequence %d holds %d pages and reserved %d", g, i, held, t.promised)
			}
			if err := t.check(s.pos); err != nil {
				return fmt.Errorf("group %d: sequence %d: %w", g, i, err)
			}
		}
		if promised != p.reserved || promised > len(p.taken) {
			return fmt.Errorf("group %d: %d pages promised, %d counted, %d there", g, promised, p.reserved, len(p.taken))
		}
		for page, n := range owner {
			if n != 1 {
				return fmt.Errorf("group %d: page %d has %d owners", g, page, n)
			}
		}
	}
	return checkBatch(&e.batch, e.options.StepTokens)
}

// check compares the live tables with what the next row, at pos, needs of the past.
func (t *tables) check(pos int) error {
	for _, l := range t.live {
		want := ceil(pos-l.base, t.pageTokens)
		if t.chunk > 0 && (l.base%t.chunk != 0 || l.base+t.chunk <= pos || l.base >= pos) {
			return fmt.Errorf("chunk at %d is live at position %d", l.base, pos)
		}
		if len(l.pages) != want {
			return fmt.Errorf("table at %d has %d pages at position %d, want %d", l.base, len(l.pages), pos, want)
		}
	}
	if len(t.live) > 1 {
		return fmt.Errorf("%d tables between steps", len(t.live))
	}
	return nil
}

func checkBatch(b *kernels.Batch, stepTokens int) error {
	if n := len(b.Token); n > max(stepTokens, b.Decode+1) || len(b.Pos) != n {
		return fmt.Errorf("a step of %d rows, %d positions, %d decoding; at most %d wanted", n, len(b.Pos), b.Decode, stepTokens)
	}
	for g, spans := range b.Spans {
		row := int32(0)
		for _, s := range spans {
			if s.Row != row || s.Rows < 1 {
				return fmt.Errorf("group %d: span of rows %d+%d where row %d was to come", g, s.Row, s.Rows, row)
			}
			for i := int32(1); i < s.Rows; i++ {
				if b.Pos[s.Row+i] != b.Pos[s.Row+i-1]+1 {
					return fmt.Errorf("positions %v of a span do not ascend", b.Pos[s.Row:s.Row+s.Rows])
				}
			}
			row += s.Rows
		}
		if int(row) != len(b.Token) {
			return fmt.Errorf("group %d: spans cover %d of %d rows", g, row, len(b.Token))
		}
	}
	for i, w := range b.Want {
		if w.Row < 0 || int(w.Row) >= len(b.Token) || i > 0 && w.Row <= b.Want[i-1].Row {
			return fmt.Errorf("wanted rows %v do not ascend within %d", b.Want, len(b.Token))
		}
	}
	return nil
}

// forget empties the slots of free pages, so that the fake device notices a slot that is written twice while its page
// is owned.
func (e *Engine) forget(k *fakeKV) {
	for g, p := range e.pools {
		for _, page := range p.free {
			clear(k.slots[g][page])
		}
	}
}
