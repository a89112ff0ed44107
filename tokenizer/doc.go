// Package tokenizer turns text into Llama 4's token ids and back, and conversations into prompts.
//
// # Words
//
// A token is a byte string with an id. A special token has an id and a name, such as <|eot|>, and stands for no text.
// Text is first cut into pieces by the split pattern (words with the space before them, up to three digits, symbols,
// spaces); within a piece, neighbouring tokens are merged, beginning with its bytes, until no two neighbours together
// are a token: of all possible merges, the one whose result has the lowest rank comes first. A rank is a token's place
// in the order in which training found it; in Llama 4's files it is the id.
//
// # Who may make special tokens
//
// Encode never does: a user who types <|eot|> gets the text of five characters and more, not the id that ends a turn.
// EncodeAllowing recognises the names that its caller allows. A ChatTemplate makes them itself and encodes the text of
// messages as text. Nothing but a template adds begin-of-text.
//
// # Files
//
// Load reads Hugging Face's tokenizer.json (byte-level BPE with Llama 4's split pattern, merges in either spelling) and
// Meta's tokenizer.model (lines of base64 and rank, to which the 2,048 special tokens of Llama 4 are added). A
// tokenizer.json whose merges are not in the order of the ids is read too: ranks then follow the merges.
//
// # Exactness
//
// The ids are those of tiktoken and of Hugging Face's tokenizers: the scanner (scan.go) is the split pattern written by
// hand, over character classes taken from the reference (classes.go), and the encoder (bpe.go) finds the result of the
// merges in linear time. Meta's Python code also cuts a text after 400,000 characters and after 25,000 characters with
// or without spaces; like Hugging Face's, this package does not.
//
// github.com/nlpodyssey/gotokenizers gives the interfaces (Splitter, Tokenizer.Model, Tokenizer.Encoding) and a second,
// independent engine (Options.Engine) that the tests compare with ours.
package tokenizer
