//go:build cuda

package cuda

import (
	"errors"

	"chulengo/kernels"
)

// A picture that is encoded in pieces is written down as launches when Encode is called, with everything that they need in its place.
// Continue enqueues them, some at a time, in the order of the one stream: whatever steps come between leave the tower's buffers alone.

// pieceWork is how much is enqueued between two steps: so many layers of a tile, which of Scout's are 3 ms on an H200.
const pieceWork = 50

// unfinished is what is left to do of a picture.
type unfinished struct {
	of   *picture
	work []work
}

// work is something to enqueue; the first of a stage says how much the stage is, in layers of a tile.
type work struct {
	enqueue func()
	weight  int
}

var _ kernels.Unfinished = (*picture)(nil)

// weigh begins a stage of the tower that counts as so many layers.
func (d *Device) weigh(stage string, layers int) {
	if d.recording {
		d.left.work = append(d.left.work, work{func() { d.stage(stage) }, layers * d.view.tiles})
		return
	}
	d.stage(stage)
}

// enqueue does something now, or writes it down.
func (d *Device) enqueue(f func()) {
	if d.recording {
		d.left.work = append(d.left.work, work{enqueue: f})
	} else {
		f()
	}
}

// Continue implements kernels.Unfinished.
func (p *picture) Continue() (done bool, err error) {
	d := p.dev
	if d == nil {
		return false, errors.New("kernels/cuda: picture: want one that was not released")
	}
	leave := d.gpu.enter()
	done, err = d.proceed(p, pieceWork)
	leave()
	if done && err == nil && d.group != nil {
		err = p.wait()
	}
	return done, err
}

// wait returns when the kernels enqueued so far have ended: all of the picture's, so that other GPUs may read it.
func (p *picture) wait() error {
	defer p.dev.gpu.enter()()
	err := p.dev.gpu.sync()
	p.settled = err == nil
	return err
}

// proceed enqueues stages of a picture until they come to so much work.
func (d *Device) proceed(p *picture, most int) (done bool, err error) {
	if d.left == nil || d.left.of != p {
		return true, nil
	}
	d.err, d.gpu.broken = nil, nil
	n := 0
	for _, w := range d.left.work {
		if w.weight > 0 && n > 0 && w.weight > most {
			break
		}
		most -= w.weight
		w.enqueue()
		n++
	}
	d.left.work = d.left.work[n:]
	d.gpu.flush()
	d.stage("")
	if d.err == nil && d.gpu.broken != nil {
		d.fail("%w", d.gpu.broken)
	}
	if d.err != nil {
		d.left = nil
		d.gpu.abandon()
		return false, d.err
	}
	if len(d.left.work) == 0 {
		d.left = nil
	}
	return d.left == nil, nil
}

// complete enqueues all that is left of a picture.
func (d *Device) complete(p *picture) error {
	_, err := d.proceed(p, 1<<30)
	return err
}
