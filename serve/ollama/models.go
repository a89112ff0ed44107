package ollama

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/serve/internal/completion"
)

// named checks a model's name; Ollama's clients add a tag to names that have none.
func named(core *completion.Core, model string) error {
	return core.Named(strings.TrimSuffix(model, ":latest"))
}

// describe is what lists say of the model. Clients print the beginning of the digest and compare digests.
func describe(core *completion.Core) fields {
	o := core.Options()
	digest := sha256.Sum256([]byte(fmt.Sprint(o.Name, "\x00", o.Root, "\x00", o.Meta)))
	size := ""
	if o.Meta.Params > 0 {
		size = parameters(o.Meta.Params)
	}
	return fields{"name": o.Name, "model": o.Name, "modified_at": o.Created.UTC().Format(time.RFC3339Nano), "size": o.Meta.Bytes,
		"digest": hex.EncodeToString(digest[:]), "details": fields{"parent_model": "", "format": "safetensors", "family": "llama4",
			"families": []string{"llama4"}, "parameter_size": size, "quantization_level": ""}}
}

// parameters writes a number of weights as people do: 21.6M, 108.6B.
func parameters(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1fB", float64(n)/1e9)
}

func (a *api) tags(c echo.Context) error {
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	return c.JSON(http.StatusOK, fields{"models": []fields{describe(core)}})
}

// ps lists what is loaded: the model, for good.
func (a *api) ps(c echo.Context) error {
	core, err := a.host.Ready()
	if err != nil {
		return a.fail(c, err)
	}
	one := describe(core)
	one["expires_at"], one["size_vram"], one["context_length"] = "9999-12-31T23:59:59Z", 0, core.Options().Context
	return c.JSON(http.StatusOK, fields{"models": []fields{one}})
}

func (a *api) version(c echo.Context) error {
	return c.JSON(http.StatusOK, fields{"version": a.host.Version})
}

// asked gives the core where a body names its model.
func (a *api) asked(c echo.Context) (core *completion.Core, stream bool, err error) {
	v, err := a.read(c)
	if err != nil {
		return nil, false, err
	}
	model := v.First("model", "name").Text("")
	stream = v.Get("stream").Bool(true)
	if err := v.Err(); err != nil {
		return nil, false, err
	}
	if core, err = a.host.Ready(); err == nil {
		err = named(core, model)
	}
	return core, stream, err
}

func (a *api) show(c echo.Context) error {
	core, _, err := a.asked(c)
	if err != nil {
		return a.fail(c, err)
	}
	o := core.Options()
	info := fields{"general.architecture": "llama4", "llama4.context_length": o.Context, "llama4.embedding_length": o.Meta.Dim}
	if o.Meta.Params > 0 {
		info["general.parameter_count"] = o.Meta.Params
	}
	capabilities := []string{"completion", "tools"}
	if o.Pictures != nil {
		capabilities = append(capabilities, "vision")
	}
	return c.JSON(http.StatusOK, fields{"modelfile": "", "parameters": "", "template": o.ChatTemplate, "details": describe(core)["details"],
		"capabilities": capabilities, "modified_at": o.Created.UTC().Format(time.RFC3339Nano),
		"model_info": info})
}

// pull says that the model is here, if it is: clients pull before they ask.
func (a *api) pull(c echo.Context) error {
	_, stream, err := a.asked(c)
	switch {
	case err != nil:
		return a.fail(c, err)
	case stream:
		_ = send(c, fields{"status": "success"})
		return nil
	}
	return c.JSON(http.StatusOK, fields{"status": "success"})
}

func (a *api) unsupported(c echo.Context) error {
	return a.fail(c, &completion.Error{Kind: completion.KindNotSupported, ZH: "这里只有一个模型，用于对话；不能制作、修改模型，也不能计算向量",
		EN: "this server chats with one model; it neither makes nor changes models, nor computes embeddings"})
}
