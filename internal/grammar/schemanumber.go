package grammar

import (
	"math/big"
	"strings"
)

// mostDecimals are the digits behind the point of a number with bounds.
const mostDecimals = 16

func (r *schemaReader) number(n *node) expr {
	whole := n.types&numberType == integerType
	places := mostDecimals
	if n.decimals >= 0 {
		places = n.decimals
	}
	if whole {
		places = 0
	}
	if n.min == nil && n.max == nil {
		switch {
		case whole:
			return anyInteger
		case n.decimals < 0:
			return anyNumber
		}
	}
	if n.min != nil && n.max != nil && n.min.Cmp(n.max) > 0 {
		return never
	}
	var out choice
	if n.max == nil || n.max.Sign() > 0 || n.max.Sign() == 0 && !n.maxOpen {
		out = append(out, decimals(magnitude(n.min, n.minOpen, false), magnitude(n.max, n.maxOpen, false), places))
	}
	if n.min == nil || n.min.Sign() < 0 {
		out = append(out, sequence{literal("-"), decimals(magnitude(n.max, n.maxOpen, true), magnitude(n.min, n.minOpen, true), places)})
	}
	return out
}

// limit is a bound of numbers that are not negative: its digits before the point, without zeros in front, and behind it,
// without zeros at the end.
type limit struct {
	whole, part string
	open        bool // the bound itself is not allowed
	none        bool
}

// magnitude is a bound as a limit, of the numbers with a minus if negative; one on the other side of 0 is none.
func magnitude(x *big.Rat, open, negative bool) limit {
	if x == nil || x.Sign() != 0 && (x.Sign() < 0) != negative {
		return limit{none: true}
	}
	x = new(big.Rat).Abs(x)
	places, _ := x.FloatPrec()
	whole, part, _ := strings.Cut(x.FloatString(places), ".")
	return limit{whole: strings.TrimLeft(whole, "0"), part: strings.TrimRight(part, "0"), open: open}
}

// decimals are the numbers, without sign and exponent, from lo to hi, with at most so many places behind the point.
func decimals(lo, hi limit, places int) expr {
	// Whole parts between those of the limits go with any fraction; those of the limits with some fractions only.
	one := big.NewInt(1)
	from, to := new(big.Int), new(big.Int)
	if !lo.none {
		from.SetString("0"+lo.whole, 10)
	}
	if hi.none {
		digits := max(18, len(lo.whole)+1)
		to.Sub(to.Exp(big.NewInt(10), big.NewInt(int64(digits)), nil), one)
	} else {
		to.SetString("0"+hi.whole, 10)
	}
	fraction := func(lo, hi *fractionLimit) expr { return fractionFrom(places, lo, hi) }
	var low, high *fractionLimit
	if !lo.none {
		low = &fractionLimit{lo.part, lo.open}
	}
	if !hi.none {
		high = &fractionLimit{hi.part, hi.open}
	}
	whole := func(x *big.Int) expr { return literal(x.String()) }
	if low != nil && high != nil && from.Cmp(to) == 0 {
		return sequence{whole(from), fraction(low, high)}
	}
	var out choice
	if low != nil {
		out = append(out, sequence{whole(from), fraction(low, nil)})
		from = new(big.Int).Add(from, one)
	}
	if high != nil {
		out = append(out, sequence{whole(to), fraction(nil, high)})
		to = new(big.Int).Sub(to, one)
	}
	if from.Cmp(to) <= 0 {
		out = append(out, sequence{naturals(from.String(), to.String()), fraction(nil, nil)})
	}
	return out
}

// naturals are the numbers from lo to hi, without zeros in front.
func naturals(lo, hi string) expr {
	var out choice
	for size := len(lo); size <= len(hi); size++ {
		from, to := lo, hi
		if size > len(lo) {
			from = "1" + strings.Repeat("0", size-1)
		}
		if size < len(hi) {
			to = strings.Repeat("9", size)
		}
		if from <= to {
			out = append(out, sameSize(from, to))
		}
	}
	return out
}

// sameSize are the digits from lo to hi, which are as many.
func sameSize(lo, hi string) expr {
	n := len(lo)
	if n == 0 {
		return literal("")
	}
	if strings.Trim(lo, "0") == "" && strings.Trim(hi, "9") == "" {
		return repeat{digit, n, n}
	}
	if lo[0] == hi[0] {
		return sequence{literal(lo[:1]), sameSize(lo[1:], hi[1:])}
	}
	out := choice{
		sequence{literal(lo[:1]), sameSize(lo[1:], strings.Repeat("9", n-1))},
		sequence{literal(hi[:1]), sameSize(strings.Repeat("0", n-1), hi[1:])},
	}
	if lo[0]+1 < hi[0] {
		out = append(out, sequence{between(rune(lo[0]+1), rune(hi[0]-1)), repeat{digit, n - 1, n - 1}})
	}
	return out
}

// fractionLimit is a bound of the digits behind the point, without zeros at its end; nil: no bound.
type fractionLimit struct {
	digits string
	open   bool
}

// first gives the next digit of a bound and the bound of those after it.
func (f *fractionLimit) first() (byte, *fractionLimit) {
	if f.digits == "" {
		return '0', f
	}
	return f.digits[0], &fractionLimit{f.digits[1:], f.open}
}

// fractionFrom is nothing, or a point and at most so many digits, from lo to hi.
func fractionFrom(places int, lo, hi *fractionLimit) expr {
	out := choice{sequence{literal("."), fractionDigits(places, lo, hi)}}
	if mayStop(lo, hi) {
		out = append(out, literal(""))
	}
	return out
}

// mayStop says whether only zeros may follow.
func mayStop(lo, hi *fractionLimit) bool {
	return (lo == nil || lo.digits == "" && !lo.open) && (hi == nil || hi.digits != "" || !hi.open)
}

// fractionDigits is at least one digit.
func fractionDigits(places int, lo, hi *fractionLimit) expr {
	if places == 0 {
		return never
	}
	if lo == nil && hi == nil {
		return repeat{digit, 1, places}
	}
	then := func(lo, hi *fractionLimit) expr {
		out := choice{fractionDigits(places-1, lo, hi)}
		if mayStop(lo, hi) {
			out = append(out, literal(""))
		}
		return out
	}
	least, most := byte('0'), byte('9') // digits that decide nothing lie between those of the bounds
	var low, high byte
	var afterLow, afterHigh *fractionLimit
	if lo != nil {
		low, afterLow = lo.first()
		least = low + 1
	}
	if hi != nil {
		high, afterHigh = hi.first()
		most = high - 1
	}
	var out choice
	switch {
	case lo != nil && hi != nil && low == high:
		return sequence{literal([]byte{low}), then(afterLow, afterHigh)}
	case lo != nil && hi != nil && low > high:
		return never
	}
	if lo != nil {
		out = append(out, sequence{literal([]byte{low}), then(afterLow, nil)})
	}
	if hi != nil {
		out = append(out, sequence{literal([]byte{high}), then(nil, afterHigh)})
	}
	if least <= most {
		out = append(out, sequence{between(rune(least), rune(most)), repeat{digit, 0, places - 1}})
	}
	return out
}
