package model

import (
	"os"
	"strings"
	"testing"
)

func TestSelectHooks(t *testing.T) {
	c, err := LoadConfig(os.DirFS("testdata/micro-maverick"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		patterns string
		want     string
	}{
		{"embed", "embed"},
		{"logits embed", "embed logits"},
		{"blocks.{2..3}.hook_resid_p*", "blocks.2.hook_resid_pre blocks.2.hook_resid_post blocks.3.hook_resid_pre blocks.3.hook_resid_post"},
		{"blocks.{0,7}.attn.hook_{q,z}", "blocks.0.attn.hook_q blocks.0.attn.hook_z blocks.7.attn.hook_q blocks.7.attn.hook_z"},
		{"*router*", "blocks.1.mlp.hook_router_logits blocks.3.mlp.hook_router_logits blocks.5.mlp.hook_router_logits blocks.7.mlp.hook_router_logits"},
	} {
		hooks, err := SelectHooks(c, strings.Fields(test.patterns))
		var names []string
		for _, h := range hooks {
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != test.want {
			t.Errorf("%s: got %s, %v, want %s", test.patterns, got, err, test.want)
		}
	}
	all, err := SelectHooks(c, []string{"*"})
	if err != nil || len(all) != len(Hooks(c)) {
		t.Errorf("*: got %d hooks, %v, want %d", len(all), err, len(Hooks(c)))
	}
	seen := map[string]bool{}
	for _, h := range all {
		if seen[h.Name] || h.Width() < 1 || h.Means == "" {
			t.Errorf("%+v: want a name of its own, a width, a meaning", h)
		}
		seen[h.Name] = true
	}
	for _, bad := range []string{"", "blocks.8.hook_resid_pre", "blocks.0.mlp.hook_router_logits", "blocks.{1", "blocks.{3..1}.x", "blocks.{a..b}.x", "(", "embed."} {
		if hooks, err := SelectHooks(c, []string{bad}); err == nil {
			t.Errorf("%q: got %v, want an error", bad, hooks)
		}
	}
}
