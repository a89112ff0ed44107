package picture

import "math"

// RGB is a decoded picture, upright and without transparency.
type RGB struct {
	Width, Height int
	Pix           []byte // [Height, Width, 3]
}

// resize scales with a triangle filter that is widened by the factor of shrinking (antialiased bilinear): along rows, then
// along columns, with bytes between and weights as integers, as the reference does on tensors of bytes.
func (p *RGB) resize(width, height int) *RGB {
	out := p
	if width != out.Width {
		wide := &RGB{width, out.Height, make([]byte, width*out.Height*3)}
		f := newFilter(out.Width, width)
		for y := range out.Height {
			f.applyLine(wide.Pix[y*width*3:], out.Pix[y*out.Width*3:])
		}
		out = wide
	}
	if height != out.Height {
		tall := &RGB{out.Width, height, make([]byte, out.Width*height*3)}
		f := newFilter(out.Height, height)
		f.applyRows(tall.Pix, out.Pix, out.Width*3)
		out = tall
	}
	return out
}

// filter is how one axis of n places is made of another: out[i] = Σ in[start[i]+j]·weights[i·taps+j] / 2^shift.
type filter struct {
	start, count []int
	taps         int
	weights      []int32 // each below 2^15
	shift        uint
}

func newFilter(from, to int) *filter {
	scale := float64(from) / float64(to)
	support, inverse := 1.0, 1.0
	if scale >= 1 {
		support, inverse = scale, 1/scale
	}
	f := &filter{start: make([]int, to), count: make([]int, to), taps: int(math.Ceil(support))*2 + 1}
	exact, largest := make([]float64, to*f.taps), 0.0
	for i := range to {
		centre := scale * (float64(i) + 0.5)
		first := max(int(centre-support+0.5), 0)
		n := min(max(min(int(centre+support+0.5), from)-first, 0), f.taps)
		f.start[i], f.count[i] = first, n
		row, total := exact[i*f.taps:][:n], 0.0
		for j := range row {
			row[j] = max(0, 1-math.Abs((float64(j+first)-centre+0.5)*inverse))
			total += row[j]
		}
		for j := range row {
			row[j] /= total
			largest = max(largest, row[j])
		}
	}
	for f.shift < 22 && int(0.5+largest*float64(int(1)<<(f.shift+1))) < 1<<15 {
		f.shift++
	}
	f.weights = make([]int32, len(exact))
	for i, w := range exact {
		f.weights[i] = int32(0.5 + w*float64(int(1)<<f.shift))
	}
	return f
}

// applyLine filters the pixels of one line.
func (f *filter) applyLine(out, in []byte) {
	for i, start := range f.start {
		r := int32(1) << (f.shift - 1)
		g, b := r, r
		pixels := in[start*3:]
		for j, w := range f.weights[i*f.taps:][:f.count[i]] {
			r += int32(pixels[3*j]) * w
			g += int32(pixels[3*j+1]) * w
			b += int32(pixels[3*j+2]) * w
		}
		out[3*i], out[3*i+1], out[3*i+2] = clamp(r>>f.shift), clamp(g>>f.shift), clamp(b>>f.shift)
	}
}

// applyRows filters whole lines of width bytes against each other.
func (f *filter) applyRows(out, in []byte, width int) {
	sums := make([]int32, width)
	for i, start := range f.start {
		for x := range sums {
			sums[x] = 1 << (f.shift - 1)
		}
		for j, w := range f.weights[i*f.taps:][:f.count[i]] {
			for x, v := range in[(start+j)*width:][:width] {
				sums[x] += int32(v) * w
			}
		}
		for x, sum := range sums {
			out[i*width+x] = clamp(sum >> f.shift)
		}
	}
}

func clamp(v int32) byte { return byte(min(max(v, 0), 255)) }
