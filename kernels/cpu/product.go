package cpu

import (
	"chulengo/kernels"
	"chulengo/kernels/cpu/simd"
)

// product is y [T, N] = x [T, K] · Wᵀ.
type product struct {
	y, x *act
	from int    // first column of y
	rows [2]int // rows of x and y: [from, to)
	m    kernels.Matrix
}

// unitBytes is about how much of a weight one thread takes at a time: enough to stream, few enough to balance.
const unitBytes = 256 << 10

// manyOutputs is how many outputs a thread takes at least, if there are so many, when several rows multiply: the routines
// rearrange the rows for each call, and that must stay a small part of it.
const manyOutputs = 512

// serialWork is the number of multiplications below which waking the other threads costs more than it saves.
const serialWork = 1 << 15

// part describes the product with one matrix of a weight into columns from on, for all rows.
func (d *Device) part(y, x *act, from int, w kernels.Weight, part, expert int) {
	d.partRows(y, x, from, [2]int{0, len(x.data) / x.width}, w, part, expert)
}

func (d *Device) partRows(y, x *act, from int, rows [2]int, w kernels.Weight, part, expert int) {
	d.work.jobs = append(d.work.jobs, product{y, x, from, rows, weightOf(w).parts[expert][part]})
}

// roundRows rounds prefill rows of x to codes before they are multiplied with w, if the device is to do so: nothing but that reads them
// afterwards. order says which row of the batch each is; nil: it is in order.
func (d *Device) roundRows(x *act, w kernels.Weight, order []int) {
	spec := &weightOf(w).spec
	if d.options.Activations != kernels.F8E4M3 || spec.Coding.Format != kernels.F8E4M3 {
		return
	}
	d.eachRow(x, func(i int) {
		row := i
		if order != nil {
			row = order[i]
		}
		if row >= d.batch.Decode {
			kernels.RoundRow(x.row(i)[:spec.K])
		}
	})
}

// multiply runs the products that were described, split over outputs.
func (d *Device) multiply() {
	jobs := d.work.jobs
	d.work.jobs = jobs[:0]
	type unit struct{ job, from, to int }
	var units []unit
	work := 0
	for j := range jobs {
		p := &jobs[j]
		t := p.rows[1] - p.rows[0]
		if t == 0 {
			continue
		}
		work += t * p.m.N * p.m.K
		// Bands are multiples of 64 outputs: a cache line of y, a tile of the routines.
		band := max(64, unitBytes/p.m.Format.Bytes(p.m.K))
		if t > 1 {
			band = max(band, manyOutputs)
		}
		if share := (p.m.N + d.pool.size - 1) / d.pool.size; p.m.InOut || band > share {
			band = share // a stored row of [K, N] is read in as few pieces as there are threads
		}
		band = (band + 63) &^ 63
		for n := 0; n < p.m.N; n += band {
			units = append(units, unit{j, n, min(n+band, p.m.N)})
		}
	}
	do := func(worker, i int) {
		u := units[i]
		d.band(worker, &jobs[u.job], u.from, u.to)
	}
	d.each(len(units), work, do)
}

// band computes outputs [from, to) of a product for all of its rows.
func (d *Device) band(worker int, p *product, from, to int) {
	y := p.y.data[p.rows[0]*p.y.width+p.from+from:]
	x := p.x.data[p.rows[0]*p.x.width:]
	t, n, k := p.rows[1]-p.rows[0], to-from, p.m.K
	if p.m.InOut || p.m.Format == kernels.BF16 {
		d.stored(worker, p, y, x, from, t, n)
		return
	}
	// A few rows at a time become float32, in the nearest cache, for all rows of x.
	rows := d.scratch(worker, panelRows*k)
	for j := 0; j < n; j += panelRows {
		some := min(panelRows, n-j)
		if t == 1 && some == simd.CodeRows && dotRows(y[j:][:some], x[:k], &p.m, from+j) {
			continue
		}
		for r := range some {
			readRow(rows[r*k:][:k], &p.m, from+j+r)
		}
		for i := range t {
			simd.DotRows(y[i*p.y.width+j:][:some], x[i*p.x.width:][:k], rows, k)
		}
	}
}

// panelRows is how many rows of a weight become float32 at a time: as many as DotRows takes at once.
const panelRows = 4

// stored computes outputs from on, n of them, straight from the weight as it is stored: bfloat16, or any plain format [K, N].
func (d *Device) stored(worker int, p *product, y, x []float32, from, t, n int) {
	k, stride, size := p.m.K, p.m.RowStride(), p.m.Format.Size()
	switch {
	case p.m.Format != kernels.BF16:
		w, row := p.m.Data[from*size:], d.scratch(worker, n)
		for i := range t {
			clear(y[i*p.y.width:][:n])
		}
		for j := range k {
			convert(row, p.m.Format, w[j*stride*size:])
			for i := range t {
				simd.AddScaled(y[i*p.y.width:][:n], x[i*p.x.width+j], row)
			}
		}
	case p.m.InOut:
		simd.MulBF16(y, p.y.width, x, p.x.width, p.m.Data[from*size:], stride, t, n, k)
	default:
		simd.DotBF16(y, p.y.width, x, p.x.width, p.m.Data[from*stride*size:], stride, t, n, k)
	}
}

// add adds y [T, N] to x.
func (d *Device) add(x, y *act) {
	d.eachRow(x, func(i int) { simd.AddScaled(x.row(i), 1, y.row(i)) })
}

// scratch is a worker's buffer of at least n values.
func (d *Device) scratch(worker, n int) []float32 {
	if len(d.work.rows[worker]) < n {
		d.work.rows[worker] = make([]float32, n)
	}
	return d.work.rows[worker][:n]
}
