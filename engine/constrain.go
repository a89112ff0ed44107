package engine

import (
	"fmt"
	"sync"
)

// constrain sets the masks of the draws that the planned step makes. Masks may take as long as the step itself to make,
// so several are made at a time. A request whose constraint fails ends here.
func (e *Engine) constrain() {
	var todo []*sequence
	add := func(s *sequence) {
		if s.constraint != nil || s.drawn < s.call.minTokens || s.draw.sampler.Mask != nil {
			todo = append(todo, s)
		}
	}
	for _, s := range e.running {
		if s.draws() {
			add(s)
			for _, j := range s.joins {
				add(j)
			}
		}
	}
	errs := make([]error, len(todo))
	if len(todo) == 1 {
		errs[0] = todo[0].restrict(e.spec.Vocab)
	} else {
		var wg sync.WaitGroup
		for i, s := range todo {
			wg.Go(func() { errs[i] = s.restrict(e.spec.Vocab) })
		}
		wg.Wait()
	}
	for i, err := range errs {
		if err != nil {
			e.fail(todo[i].call, err)
		}
	}
}

// restrict sets the mask of the next draw: the constraint's, without the stop ids where the answer is too short yet.
// Where nothing but a stop id is allowed the constraint wins.
func (s *sequence) restrict(vocab int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &ConstraintError{fmt.Errorf("panic: %v", p)}
		}
	}()
	var mask []uint32
	if s.constraint != nil {
		if mask = s.constraint.Mask(); mask != nil {
			if len(mask)*32 < vocab {
				return &ConstraintError{fmt.Errorf("want a mask of %d bits, got %d", vocab, len(mask)*32)}
			}
			if !allows(mask, vocab) {
				return &ConstraintError{fmt.Errorf("it allows no token after %d", s.drawn)}
			}
		}
	}
	if s.drawn < s.call.minTokens && len(s.call.stopIDs) > 0 {
		if s.mask == nil {
			s.mask = make([]uint32, (vocab+31)/32)
		}
		if mask == nil {
			for i := range s.mask {
				s.mask[i] = ^uint32(0)
			}
		} else {
			copy(s.mask, mask)
		}
		for id := range s.call.stopIDs {
			s.mask[id/32] &^= 1 << (id % 32)
		}
		if allows(s.mask, vocab) {
			mask = s.mask
		}
	}
	s.draw.sampler.Mask = mask
	return nil
}

// allows says whether a mask has a bit of an id in [0, vocab).
func allows(mask []uint32, vocab int) bool {
	for i, w := range mask[:(vocab+31)/32] {
		if n := vocab - 32*i; n < 32 {
			w &= 1<<n - 1
		}
		if w != 0 {
			return true
		}
	}
	return false
}

// accept tells the constraint what was drawn.
func (s *sequence) accept(id int32) (err error) {
	if s.constraint == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = &ConstraintError{fmt.Errorf("token %d: panic: %v", id, p)}
		}
	}()
	if err := s.constraint.Accept(id); err != nil {
		return &ConstraintError{fmt.Errorf("token %d: %w", id, err)}
	}
	return nil
}

// clone copies a constraint for one choice.
func clone(c Constraint) (copied Constraint, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &ConstraintError{fmt.Errorf("clone: panic: %v", p)}
		}
	}()
	return c.Clone(), nil
}
