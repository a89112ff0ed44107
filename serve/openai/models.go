package openai

import (
	"net/url"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/completion"
)

// modelObject describes a model. Benchmarks of vLLM ask for root.
type modelObject struct {
	ID         string    `json:"id"`
	Object     string    `json:"object"`
	Created    int64     `json:"created"`
	OwnedBy    string    `json:"owned_by"`
	Root       string    `json:"root"`
	Parent     *string   `json:"parent"`
	MaxContext int       `json:"max_model_len"`
	Meta       modelMeta `json:"meta"`
}

// modelMeta are llama-server's.
type modelMeta struct {
	Vocab   int   `json:"n_vocab"`
	Context int   `json:"n_ctx_train"`
	Dim     int   `json:"n_embd"`
	Params  int64 `json:"n_params"`
	Bytes   int64 `json:"size"`
}

func modelOf(core *completion.Core) modelObject {
	o := core.Options()
	root := o.Root
	if root == "" {
		root = o.Name
	}
	return modelObject{ID: o.Name, Object: "model", Created: o.Created.Unix(), OwnedBy: "chulengo", Root: root, MaxContext: o.Context,
		Meta: modelMeta{core.Model().Tokenizer().VocabSize(), o.Meta.TrainContext, o.Meta.Dim, o.Meta.Params, o.Meta.Bytes}}
}

// models is GET /v1/models.
func (a *api) models(c echo.Context) error {
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	return c.JSON(200, map[string]any{"object": "list", "data": []modelObject{modelOf(core)}})
}

// model is GET /v1/models/{id}; ids may have slashes.
func (a *api) model(c echo.Context) error {
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	name := c.Param("*")
	if plain, err := url.PathUnescape(name); err == nil {
		name = plain
	}
	if err := core.Named(name); err != nil {
		return a.fail(c, err)
	}
	return c.JSON(200, modelOf(core))
}

// props is GET /props.
func (a *api) props(c echo.Context) error {
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	o := core.Options()
	s := o.Sampling
	return c.JSON(200, map[string]any{
		"default_generation_settings": map[string]any{
			"n_ctx": o.Context,
			"params": map[string]any{"temperature": s.Temperature, "top_k": s.TopK, "top_p": s.TopP, "min_p": s.MinP,
				"repeat_penalty": s.RepetitionPenalty, "presence_penalty": s.PresencePenalty, "frequency_penalty": s.FrequencyPenalty},
		},
		"total_slots":        max(1, o.Sequences),
		"model_path":         o.Root,
		"model_alias":        o.Name,
		"chat_template":      o.ChatTemplate,
		"chat_template_caps": map[string]bool{"supports_system_role": true, "supports_tools": true, "supports_tool_calls": true, "supports_parallel_tool_calls": true},
		"modalities":         map[string]bool{"vision": o.Pictures != nil, "audio": false},
		"build_info":         a.host.Version,
		"is_sleeping":        false,
	})
}

// slots is GET /slots.
func (a *api) slots(c echo.Context) error {
	return a.fail(c, &completion.Error{Kind: completion.KindNotSupported, ZH: "这里的序列没有固定的槽位；请看 /metrics",
		EN: "sequences have no fixed slots here; see /metrics"})
}
