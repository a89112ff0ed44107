package guard

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// mostBuckets bounds the memory that clients with many addresses can take.
const mostBuckets = 100_000

// rates are the buckets of all clients.
type rates struct {
	perSecond float64
	burst     int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newRates(perSecond float64, burst int) *rates {
	if burst == 0 {
		burst = max(1, int(math.Ceil(perSecond)))
	}
	return &rates{perSecond: perSecond, burst: burst, buckets: map[string]*rate.Limiter{}}
}

// take takes a token out of a bucket, or says how long it takes until there is one.
func (r *rates) take(name string, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[name]
	if b == nil {
		if len(r.buckets) >= mostBuckets {
			r.forget(now)
		}
		b = rate.NewLimiter(rate.Limit(r.perSecond), r.burst)
		r.buckets[name] = b
	}
	place := b.ReserveN(now, 1)
	wait := place.DelayFrom(now)
	if wait > 0 {
		place.CancelAt(now) // a refused request costs nothing
	}
	return wait
}

// forget drops the full buckets, which are as good as new; all of them if none is full.
func (r *rates) forget(now time.Time) {
	for name, b := range r.buckets {
		if b.TokensAt(now) >= float64(r.burst) {
			delete(r.buckets, name)
		}
	}
	if len(r.buckets) >= mostBuckets {
		clear(r.buckets)
	}
}
