package engine

import (
	"fmt"

	"chulengo/kernels"
)

// Model is what the engine asks of a model.
type Model interface {
	// Forward enqueues the stages of one step on d.
	Forward(d kernels.Device)
	// Spec says what the engine has to know about it. It does not change.
	Spec() Spec
}

// Spec describes a model to the engine.
type Spec struct {
	Vocab   int            // V: ids lie in [0, Vocab)
	Context int            // tokens that one sequence may hold
	Chunk   int            // tokens of a chunk of the chunked page group; 0: that group sees everything
	StopIDs []int32        // ids that end an answer
	Experts int            // routed experts of a layer that has some
	KV      kernels.KVSpec // Format, KVHeads, HeadDim and Layers; the engine fills in the pages
	// Columns is the width of the value at a point, or an error where the model has no such point. nil: no taps.
	Columns func(kernels.Point) (int, error)

	// See encodes a picture; nil: the model takes none. The rows stand for tokens of the id Patch; one of them takes at
	// most PictureRow bytes of the device's memory.
	See        func(kernels.Viewer, *kernels.Pixels) (kernels.Picture, error)
	Patch      int32
	PictureRow int64
}

func (s *Spec) check() error {
	switch {
	case s.Vocab < 1:
		return fmt.Errorf("engine: model: want a vocabulary of at least 1 id, got %d", s.Vocab)
	case s.Context < 1:
		return fmt.Errorf("engine: model: want a context of at least 1 token, got %d", s.Context)
	case s.Chunk < 0:
		return fmt.Errorf("engine: model: want a chunk of at least 0 tokens, got %d", s.Chunk)
	}
	for _, id := range s.StopIDs {
		if id < 0 || int(id) >= s.Vocab {
			return fmt.Errorf("engine: model: stop id: want an id in [0, %d), got %d", s.Vocab, id)
		}
	}
	return nil
}

// Tokenizer makes one decoder for every answer.
type Tokenizer interface{ NewDecoder() Decoder }

// Speller is a tokenizer that knows the exact bytes of a token: nil for special ones. Events then have them.
type Speller interface{ Bytes(id int32) []byte }

// Decoder turns the ids of one answer into text.
type Decoder interface {
	// Next gives the text that became certain with id: complete UTF-8, "" for special ids.
	Next(id int32) string
	// Flush gives what is left at the end.
	Flush() string
}
