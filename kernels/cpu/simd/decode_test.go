package simd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// Every code at every place of a vector, of every length up to a few vectors, with small, large and odd scales: the bits of
// plain Go, and nothing beyond.
func TestDecode(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var table [16]float32
	for i := range table {
		table[i] = float32(r.NormFloat64())
	}
	codes := make([]byte, 1+3*256)
	for i := range codes {
		codes[i] = byte(i * 37)
	}
	codes = codes[1:] // codes need not be aligned
	scales := []float32{1, -0.37, 1e-40, 0x1p-126, 3e38, 0}
	routines := map[string]func(dst []float32, codes []byte, scale float32){
		"e4m3":   DecodeE4M3,
		"int4 8": func(dst []float32, codes []byte, scale float32) { DecodeInt4(dst, codes, 8, scale) },
		"int4 0": func(dst []float32, codes []byte, scale float32) { DecodeInt4(dst, codes, 0, scale) },
		"table4": func(dst []float32, codes []byte, scale float32) { DecodeTable4(dst, codes, &table, scale) },
	}
	want := map[string][]float32{}
	every(t, func(t *testing.T) {
		for name, decode := range routines {
			for _, scale := range scales {
				for n := range 70 {
					for from := 0; from < 256; from += 19 {
						dst := make([]float32, n+1)
						dst[n] = guard
						decode(dst[:n], codes[from:], scale)
						if dst[n] != guard {
							t.Fatalf("%s: n %d: wrote beyond the end", name, n)
						}
						key := fmt.Sprint(name, scale, n, from)
						if Name() == "go" {
							want[key] = dst
						}
						for i, v := range want[key] {
							if math.Float32bits(v) != math.Float32bits(dst[i]) {
								t.Fatalf("%s: n %d from %d scale %v: %v at %d, want %v", name, n, from, scale, dst[i], i, v)
							}
						}
					}
				}
			}
		}
	})
}

// Products straight from codes have the bits of decoding rows and of Dot.
func TestDotCodes(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var table [16]float32
	for i := range table {
		table[i] = float32(r.NormFloat64())
	}
	every(t, func(t *testing.T) {
		for _, n := range []int{16, 32, 96, 160} {
			for _, group := range []int{16, 32, n} {
				for kind := range 4 { // table, zeros, scales that rows share, E4M3
					c := Codes{Table: &table, Group: group, Grid: n / group, Stride: n/2 + 3}
					if n%group != 0 {
						continue
					}
					groups := n / group
					switch kind {
					case 1:
						for range CodeRows * groups {
							c.Zeros = append(c.Zeros, uint8(r.IntN(17)))
						}
					case 2:
						c.Grid = 0
					case 3:
						c.Table, c.Stride = nil, n+1
					}
					for range CodeRows * groups {
						c.Scales = append(c.Scales, float32(r.NormFloat64()))
					}
					raw := make([]byte, 1+CodeRows*c.Stride)
					for i := range raw {
						raw[i] = byte(r.IntN(0x7f))
					}
					c.Bytes = raw[1:]
					x, y := make([]float32, n), make([]float32, CodeRows+1)
					for i := range x {
						x[i] = float32(r.NormFloat64())
					}
					y[CodeRows] = guard
					if !DotCodes(y[:CodeRows], x, &c) {
						if Name() == "avx512" {
							t.Errorf("n %d group %d: no routine", n, group)
						}
						continue
					}
					row := make([]float32, n)
					for i := range CodeRows {
						for g := range groups {
							at, to, scale := c.Bytes[i*c.Stride:], row[g*group:][:group], c.Scales[i*c.Grid+g]
							switch {
							case kind == 3:
								DecodeE4M3(to, at[g*group:], scale)
							case c.Zeros == nil:
								DecodeTable4(to, at[g*group/2:], &table, scale)
							default:
								less := table
								for j := range less {
									less[j] -= float32(c.Zeros[i*c.Grid+g])
								}
								DecodeTable4(to, at[g*group/2:], &less, scale)
							}
						}
						if want := Dot(row, x); math.Float32bits(y[i]) != math.Float32bits(want) {
							t.Errorf("n %d group %d kind %d row %d: got %v, want %v", n, group, kind, i, y[i], want)
						}
					}
					if y[CodeRows] != guard {
						t.Errorf("n %d: wrote beyond the rows", n)
					}
				}
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	const n = 5120
	dst, codes := make([]float32, n), make([]byte, n)
	var table [16]float32
	for name, decode := range map[string]func(){
		"e4m3":   func() { DecodeE4M3(dst, codes, 2) },
		"int4":   func() { DecodeInt4(dst, codes, 8, 2) },
		"table4": func() { DecodeTable4(dst, codes, &table, 2) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				decode()
			}
		})
	}
}
