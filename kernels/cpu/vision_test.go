package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"chulengo/kernels"
)

// tower is one layer of a vision tower with random weights, and the same in float64.
type tower struct {
	dev   *Device
	r     *rand.Rand
	plain map[kernels.Weight][][]float64 // rows [N][K]
}

// weight makes a matrix [N, K], or a vector [1, K].
func (w *tower) weight(t *testing.T, std, mean float64, k int, parts ...int) kernels.Weight {
	t.Helper()
	h, err := w.dev.NewWeight(kernels.WeightSpec{Names: []string{"random"}, Parts: parts, K: k, Experts: 1})
	if err != nil {
		t.Fatal(err)
	}
	for p, n := range parts {
		m := kernels.Matrix{Format: kernels.BF16, N: n, K: k}
		for range n {
			row := make([]float64, k)
			for i := range row {
				v := math.Float32bits(float32(mean+std*w.r.NormFloat64())) >> 16
				row[i] = float64(math.Float32frombits(v << 16))
				m.Data = binary.LittleEndian.AppendUint16(m.Data, uint16(v))
			}
			w.plain[h] = append(w.plain[h], row)
		}
		if err := h.Put(p, 0, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Seal(); err != nil {
		t.Fatal(err)
	}
	return h
}

// times is rows of x times wᵀ plus the bias; first is the first row of w that counts, n how many do.
func (w *tower) times(x [][]float64, h kernels.Weight, first, n int, bias kernels.Weight) [][]float64 {
	out := make([][]float64, len(x))
	for i := range x {
		out[i] = make([]float64, n)
		for j := range n {
			for k, v := range w.plain[h][first+j] {
				out[i][j] += x[i][k] * v
			}
			if bias != nil {
				out[i][j] += w.plain[bias][0][j]
			}
		}
	}
	return out
}

func (w *tower) norm(x [][]float64, n kernels.LayerNorm, eps float64) [][]float64 {
	out := make([][]float64, len(x))
	for i, row := range x {
		mean, square := 0.0, 0.0
		for _, v := range row {
			mean += v / float64(len(row))
		}
		for _, v := range row {
			square += (v - mean) * (v - mean) / float64(len(row))
		}
		out[i] = make([]float64, len(row))
		for j, v := range row {
			out[i][j] = (v-mean)/math.Sqrt(square+eps)*w.plain[n.Weight][0][j] + w.plain[n.Bias][0][j]
		}
	}
	return out
}

func gelu64(x [][]float64) [][]float64 {
	for _, row := range x {
		for j, v := range row {
			row[j] = 0.5 * v * math.Erfc(-v/math.Sqrt2)
		}
	}
	return x
}

// layer is VisionLayer as the paper has it: rotation by complex numbers, softmax over the rows of one tile.
func (w *tower) layer(l *kernels.VisionLayer, x [][]float64, perTile int) [][]float64 {
	dim := l.Heads * l.HeadDim
	n := w.norm(x, l.AttnNorm, float64(l.Eps))
	q, k, v := w.times(n, l.QKV, 0, dim, l.QKVBias[0]), w.times(n, l.QKV, dim, dim, l.QKVBias[1]), w.times(n, l.QKV, 2*dim, dim, l.QKVBias[2])
	for i := range x {
		at := i % perTile
		if at == perTile-1 {
			continue
		}
		for _, row := range [][]float64{q[i], k[i]} {
			for j := 0; j < dim; j += 2 {
				pair := j % l.HeadDim / 2
				angle := float64(at%l.Grid+1) * l.RoPE[pair%len(l.RoPE)]
				if pair >= len(l.RoPE) {
					angle = float64(at/l.Grid+1) * l.RoPE[pair%len(l.RoPE)]
				}
				c := complex(row[j], row[j+1]) * complex(math.Cos(angle), math.Sin(angle))
				row[j], row[j+1] = real(c), imag(c)
			}
		}
	}
	z := make([][]float64, len(x))
	for i := range x {
		z[i] = make([]float64, dim)
		for h := range l.Heads {
			from, total := h*l.HeadDim, 0.0
			for j := i / perTile * perTile; j < (i/perTile+1)*perTile; j++ {
				score := 0.0
				for d := from; d < from+l.HeadDim; d++ {
					score += q[i][d] * k[j][d]
				}
				weight := math.Exp(score / math.Sqrt(float64(l.HeadDim)))
				total += weight
				for d := from; d < from+l.HeadDim; d++ {
					z[i][d] += weight * v[j][d]
				}
			}
			for d := from; d < from+l.HeadDim; d++ {
				z[i][d] /= total
			}
		}
	}
	add := func(y [][]float64) {
		for i := range x {
			for j := range x[i] {
				x[i][j] += y[i][j]
			}
		}
	}
	add(w.times(z, l.Out, 0, dim, l.OutBias))
	ffn := len(w.plain[l.Up])
	add(w.times(gelu64(w.times(w.norm(x, l.FFNNorm, float64(l.Eps)), l.Up, 0, ffn, l.UpBias)), l.Down, 0, dim, l.DownBias))
	return x
}

// TestVisionShapes holds the stages against float64 for heads and grids of odd sizes, 88 and 577 rows among them.
func TestVisionShapes(t *testing.T) {
	for _, c := range []struct{ heads, headDim, grid, shuffle, tiles int }{
		{2, 4, 2, 1, 1}, {3, 20, 3, 3, 2}, {1, 88, 4, 2, 6}, {2, 88, 24, 2, 1}, {2, 36, 6, 3, 5},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			w := &tower{dev: New(Options{Threads: 2}), r: rand.New(rand.NewPCG(3, 4)), plain: map[kernels.Weight][][]float64{}}
			defer w.dev.Close()
			const size, channels, ffn, adapter, out = 3, 2, 40, 24, 17
			dim, patches := c.heads*c.headDim, c.grid*c.grid
			pixel := channels * size * size
			vector := func() kernels.Weight { return w.weight(t, 0.1, 0, dim, 1) }
			norm := func() kernels.LayerNorm {
				return kernels.LayerNorm{Weight: w.weight(t, 0.2, 1, dim, 1), Bias: vector()}
			}
			matrix := func(k int, parts ...int) kernels.Weight { return w.weight(t, 1/math.Sqrt(float64(k)), 0, k, parts...) }
			patch := kernels.Patch{Size: size, Weight: matrix(pixel, dim), Class: w.weight(t, 1, 0, dim, 1), Positions: w.weight(t, 0.3, 0, dim, patches+1), Norm: norm(), Eps: 1e-5}
			layer := kernels.VisionLayer{AttnNorm: norm(), QKV: matrix(dim, dim, dim, dim), QKVBias: [3]kernels.Weight{vector(), vector(), vector()},
				Out: matrix(dim, dim), OutBias: vector(), FFNNorm: norm(), Up: matrix(dim, ffn), UpBias: w.weight(t, 0.1, 0, ffn, 1),
				Down: matrix(ffn, dim), DownBias: vector(), Heads: c.heads, HeadDim: c.headDim, Grid: c.grid, Eps: 1e-5}
			for i := range c.headDim / 4 {
				layer.RoPE = append(layer.RoPE, math.Pow(10000, -4*float64(i)/float64(c.headDim)))
			}
			square := c.shuffle * c.shuffle
			project := kernels.Projector{Norm: norm(), Grid: c.grid, Shuffle: c.shuffle, Up: matrix(dim*square, adapter), Down: matrix(adapter, adapter), Out: matrix(adapter, out), Eps: 1e-5}

			side := c.grid * size
			p := &kernels.Pixels{Tiles: c.tiles, Channels: channels, Side: side, Format: kernels.F32}
			values := make([]float64, c.tiles*channels*side*side)
			for i := range values {
				v := float32(w.r.NormFloat64())
				values[i] = float64(v)
				p.Data = binary.LittleEndian.AppendUint32(p.Data, math.Float32bits(v))
			}
			picture, err := w.dev.Encode(p, func() {
				x := w.dev.Patches(&patch)
				w.dev.VisionLayer(&layer, x)
				w.dev.Project(&project, x)
			})
			if err != nil {
				t.Fatal(err)
			}

			var x [][]float64
			for tile := range c.tiles {
				for at := range patches {
					var row []float64
					for ch := range channels {
						for y := range size {
							for dx := range size {
								row = append(row, values[((tile*channels+ch)*side+at/c.grid*size+y)*side+at%c.grid*size+dx])
							}
						}
					}
					x = append(x, w.times([][]float64{row}, patch.Weight, 0, dim, nil)[0])
				}
				x = append(x, append([]float64(nil), w.plain[patch.Class][0]...))
				for at := range patches + 1 {
					for j, v := range w.plain[patch.Positions][at] {
						x[tile*(patches+1)+at][j] += v
					}
				}
			}
			x = w.layer(&layer, w.norm(x, patch.Norm, 1e-5), patches+1)
			x = w.norm(x, project.Norm, 1e-5)
			var rows [][]float64
			for tile := range c.tiles {
				for y := 0; y < c.grid; y += c.shuffle {
					for col := 0; col < c.grid; col += c.shuffle {
						var row []float64
						for dy := range c.shuffle {
							for dx := range c.shuffle {
								row = append(row, x[tile*(patches+1)+(y+dy)*c.grid+col+dx]...)
							}
						}
						rows = append(rows, row)
					}
				}
			}
			rows = gelu64(w.times(gelu64(w.times(rows, project.Up, 0, adapter, nil)), project.Down, 0, adapter, nil))
			rows = w.times(rows, project.Out, 0, out, nil)

			got := picture.(*seen).act
			if picture.Rows() != len(rows) || got.width != out {
				t.Fatalf("got [%d, %d], want [%d, %d]", picture.Rows(), got.width, len(rows), out)
			}
			var diff, size2 float64
			for i, row := range rows {
				for j, v := range row {
					d := float64(got.row(i)[j]) - v
					diff, size2 = diff+d*d, size2+v*v
				}
			}
			if e := math.Sqrt(diff / size2); !(e < 1e-6) { // a few roundings of float32, 6e-8 each
				t.Errorf("relative error %.2e, want below 1e-6", e)
			} else {
				t.Logf("relative error %.2e", e)
			}
		})
	}
}
