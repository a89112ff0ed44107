package cpu

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// pool is the device's threads: size-1 goroutines and the caller of each.
type pool struct {
	size  int
	tasks chan *task
	once  sync.Once
}

// task is one parallel loop.
type task struct {
	n     int64
	next  atomic.Int64
	do    func(worker, i int)
	alive sync.WaitGroup
	panic atomic.Pointer[any]
}

func newPool(size int) *pool {
	p := &pool{size: size, tasks: make(chan *task)}
	for w := 1; w < size; w++ {
		go func() {
			for t := range p.tasks {
				t.work(w)
				t.alive.Done()
			}
		}()
	}
	return p
}

// each runs do(worker, i) for every i in [0, n), in any order, on all threads; worker, below size, is the thread's number.
// A panic in do is passed on to the caller once all threads have stopped.
func (p *pool) each(n int, do func(worker, i int)) {
	if n <= 1 || p.size == 1 {
		for i := range n {
			do(0, i)
		}
		return
	}
	t := &task{n: int64(n), do: do}
	helpers := min(p.size, n) - 1
	t.alive.Add(helpers)
	for range helpers {
		p.tasks <- t
	}
	t.work(0)
	t.alive.Wait()
	if v := t.panic.Load(); v != nil {
		panic(*v)
	}
}

func (t *task) work(worker int) {
	defer func() {
		if v := recover(); v != nil {
			v = any(fmt.Sprintf("thread %d: %v", worker, v))
			t.panic.CompareAndSwap(nil, &v)
			t.next.Store(t.n)
		}
	}()
	for {
		i := t.next.Add(1) - 1
		if i >= t.n {
			return
		}
		t.do(worker, int(i))
	}
}

// each runs do(worker, i) for every i in [0, n), on all threads if there is enough to do; work is the number of
// multiplications, or what takes as long.
func (d *Device) each(n, work int, do func(worker, i int)) {
	if work >= serialWork {
		d.pool.each(n, do)
		return
	}
	for i := range n {
		do(0, i)
	}
}

// eachRow runs do for every row of a, a few operations for each value.
func (d *Device) eachRow(a *act, do func(row int)) {
	d.each(len(a.data)/a.width, len(a.data), func(_, row int) { do(row) })
}

func (p *pool) close() { p.once.Do(func() { close(p.tasks) }) }
