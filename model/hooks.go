package model

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"chulengo/kernels"
)

// HookManifest is the version of the published hook names and of what they mean.
const HookManifest = 1

// Hook is one observable value of the forward pass: a point under its published name.
type Hook struct {
	Name  string // blocks.3.attn.hook_z
	At    kernels.Point
	Shape []int  // of one token, e.g. [H, Hd]
	Axes  string // what the axes are, e.g. "head, dim"
	Means string
}

// Width is the number of values of one token.
func (h Hook) Width() int {
	n := 1
	for _, s := range h.Shape {
		n *= s
	}
	return n
}

// hookName is a row of the table of names, which follow TransformerLens.
type hookName struct {
	hook  kernels.Hook
	name  string // within the layer
	shape func(c *Config) []int
	axes  string
	means string
}

func dim(c *Config) []int     { return []int{c.Dim} }
func heads(c *Config) []int   { return []int{c.Heads, c.HeadDim} }
func kvHeads(c *Config) []int { return []int{c.KVHeads, c.HeadDim} }
func expert(c *Config) []int  { return []int{c.Experts} }
func scalar(*Config) []int    { return []int{} }

var attnHooks = []hookName{
	{kernels.HookResidPre, "hook_resid_pre", dim, "dim", "residual stream before the layer"},
	{kernels.HookAttnNorm, "ln1.hook_normalized", dim, "dim", "normalised input of attention"},
	{kernels.HookQ, "attn.hook_q", heads, "head, dim", "queries before rotation, norm and temperature"},
	{kernels.HookK, "attn.hook_k", kvHeads, "kv head, dim", "keys before rotation and norm"},
	{kernels.HookV, "attn.hook_v", kvHeads, "kv head, dim", "values"},
	{kernels.HookRotQ, "attn.hook_rot_q", heads, "head, dim", "queries as they enter the scores (NoPE layers: temperature only)"},
	{kernels.HookRotK, "attn.hook_rot_k", kvHeads, "kv head, dim", "keys as they are cached"},
	{kernels.HookZ, "attn.hook_z", heads, "head, dim", "weighted values of each head"},
	{kernels.HookAttnOut, "hook_attn_out", dim, "dim", "attention's addition to the residual"},
	{kernels.HookResidMid, "hook_resid_mid", dim, "dim", "residual stream between attention and feed-forward"},
}

var moeHooks = []hookName{
	{kernels.HookFFNNorm, "ln2.hook_normalized", dim, "dim", "normalised input of router and experts"},
	{kernels.HookRouterLogits, "mlp.hook_router_logits", expert, "expert", "router scores before the sigmoid"},
	{kernels.HookExpertIndex, "mlp.hook_expert_indices", scalar, "", "the chosen expert"},
	{kernels.HookExpertGate, "mlp.hook_expert_weights", scalar, "", "sigmoid of its score; scales the expert's input"},
	{kernels.HookExpertIn, "mlp.hook_expert_in", dim, "dim", "scaled input of the chosen expert"},
	{kernels.HookRoutedOut, "mlp.hook_routed_out", dim, "dim", "output of the chosen expert"},
	{kernels.HookSharedOut, "mlp.hook_shared_out", dim, "dim", "output of the shared expert"},
}

var denseHooks = []hookName{
	{kernels.HookFFNNorm, "ln2.hook_normalized", dim, "dim", "normalised input of the feed-forward"},
}

var outHooks = []hookName{
	{kernels.HookFFNOut, "hook_mlp_out", dim, "dim", "the feed-forward's addition to the residual"},
	{kernels.HookResidPost, "hook_resid_post", dim, "dim", "residual stream after the layer"},
}

// Hooks lists every observable value of a model in the order of the forward pass.
func Hooks(c *Config) []Hook {
	list := []Hook{{"embed", kernels.Point{Hook: kernels.HookEmbed}, dim(c), "dim", "token embedding"}}
	for l := range c.Layers {
		ffn := denseHooks
		if c.IsMoE(l) {
			ffn = moeHooks
		}
		for _, group := range [][]hookName{attnHooks, ffn, outHooks} {
			for _, h := range group {
				list = append(list, Hook{fmt.Sprintf("blocks.%d.%s", l, h.name), kernels.Point{Layer: l, Hook: h.hook}, h.shape(c), h.axes, h.means})
			}
		}
	}
	return append(list,
		Hook{"ln_final.hook_normalized", kernels.Point{Hook: kernels.HookFinalNorm}, dim(c), "dim", "normalised input of the output projection"},
		Hook{"logits", kernels.Point{Hook: kernels.HookLogits}, []int{c.Vocab}, "token", "scores before the softmax"})
}

// SelectHooks gives the hooks that match any of the patterns, in the order of the forward pass. In a pattern * stands for
// any characters, {a,b} for alternatives and {4..7} for numbers from 4 to 7. A pattern that matches nothing is an error.
func SelectHooks(c *Config, patterns []string) ([]Hook, error) {
	return selectHooks(c, Hooks(c), patterns)
}

// SelectAllHooks chooses among the hooks of the vision tower as well, which come first.
func SelectAllHooks(c *Config, patterns []string) ([]Hook, error) {
	return selectHooks(c, append(VisionHooks(c), Hooks(c)...), patterns)
}

func selectHooks(c *Config, all []Hook, patterns []string) ([]Hook, error) {
	chosen := make([]bool, len(all))
	for _, p := range patterns {
		re, err := hookPattern(p)
		if err != nil {
			return nil, err
		}
		found := false
		for i, h := range all {
			if re.MatchString(h.Name) {
				chosen[i], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("model: no hook matches %q: want a name such as %s or a pattern such as blocks.*.hook_resid_post; there are %d layers",
				p, Hooks(c)[1].Name, c.Layers)
		}
	}
	var out []Hook
	for i, h := range all {
		if chosen[i] {
			out = append(out, h)
		}
	}
	return out, nil
}

// hookPattern compiles a pattern to a regular expression.
func hookPattern(p string) (*regexp.Regexp, error) {
	var re strings.Builder
	re.WriteString("^")
	for rest := p; rest != ""; {
		i := strings.IndexAny(rest, "*{")
		if i < 0 {
			re.WriteString(regexp.QuoteMeta(rest))
			break
		}
		re.WriteString(regexp.QuoteMeta(rest[:i]))
		if rest[i] == '*' {
			re.WriteString(".*")
			rest = rest[i+1:]
			continue
		}
		end := strings.IndexByte(rest[i:], '}')
		if end < 0 {
			return nil, fmt.Errorf("model: hook pattern %q: want a closing }", p)
		}
		group, err := hookGroup(rest[i+1 : i+end])
		if err != nil {
			return nil, fmt.Errorf("model: hook pattern %q: %w", p, err)
		}
		re.WriteString(group)
		rest = rest[i+end+1:]
	}
	re.WriteString("$")
	return regexp.Compile(re.String())
}

// hookGroup turns the inside of braces, alternatives or a range of numbers, into a group.
func hookGroup(inside string) (string, error) {
	var words []string
	if from, to, ok := strings.Cut(inside, ".."); ok {
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil || a < 0 || b < a || b > maxLayers {
			return "", fmt.Errorf("want a range such as {4..7}, got {%s}", inside)
		}
		for ; a <= b; a++ {
			words = append(words, strconv.Itoa(a))
		}
	} else {
		for _, w := range strings.Split(inside, ",") {
			words = append(words, regexp.QuoteMeta(w))
		}
	}
	return "(?:" + strings.Join(words, "|") + ")", nil
}

// VisionHooks lists the observable values of the vision tower, in the order of its stages. Their rows are those of the
// tiles, not tokens: VisionRows to a tile.
func VisionHooks(c *Config) []Hook {
	v := c.Vision
	if v == nil {
		return nil
	}
	hook := func(name string, layer int, at kernels.Hook, width int, means string) Hook {
		return Hook{"vision." + name, kernels.Point{Layer: layer, Hook: at}, []int{width}, "dim", means}
	}
	list := []Hook{hook("embed", 0, kernels.HookVisionEmbed, v.Dim, "patches and class tokens with their positions, normalised")}
	for l := range v.Layers {
		block := fmt.Sprintf("blocks.%d.", l)
		list = append(list,
			hook(block+"attn.hook_z", l, kernels.HookVisionZ, v.Dim, "weighted values of all heads"),
			hook(block+"hook_resid_mid", l, kernels.HookVisionResidMid, v.Dim, "residual stream between attention and feed-forward"),
			hook(block+"hook_resid_post", l, kernels.HookVisionResidPost, v.Dim, "residual stream after the layer"))
	}
	return append(list,
		hook("hook_shuffled", 0, kernels.HookVisionShuffled, v.FFNDim, "normalised patches, squares of them side by side: the adapter's input"),
		hook("hook_features", 0, kernels.HookVisionFeatures, v.AdapterDim, "output of the adapter"),
		hook("projected", 0, kernels.HookVisionOut, c.Dim, "what stands in place of token embeddings"))
}

// IsVision says that a hook is one of the vision tower's.
func (h Hook) IsVision() bool {
	return h.At.Hook >= kernels.HookVisionEmbed && h.At.Hook <= kernels.HookVisionOut
}

// VisionRows is how many rows a hook of the vision tower has to a tile: patches and then the class token, or, from the
// pixel shuffle on, one for each token.
func (h Hook) VisionRows(v *VisionConfig) int {
	if h.At.Hook >= kernels.HookVisionShuffled {
		return v.Tokens()
	}
	return v.Patches() + 1
}
