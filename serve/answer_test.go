package serve

import (
	"context"
	"errors"
	"testing"
)

// A request that has left does not answer, even where its turn and its end come together.
func TestTurnOfTheDeparted(t *testing.T) {
	var c conversations
	ctx, leave := context.WithCancel(t.Context())
	leave()
	for range 50 { // select takes either of two ready cases
		if err := c.acquire(ctx, "x", true); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	if err := c.acquire(t.Context(), "x", false); err != nil {
		t.Errorf("the conversation is not free: %v", err)
	}
	c.release("x")
	if len(c.busy) != 0 {
		t.Errorf("%d conversations are kept", len(c.busy))
	}
}
