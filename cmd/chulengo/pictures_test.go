package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chulengo/internal/recorded"
	"chulengo/safetensors"
)

// pictureFiles writes the recorded pictures to a folder whose name has a blank.
func pictureFiles(t *testing.T) (paths []string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "my pictures")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, p := range recorded.Pictures() {
		path := filepath.Join(dir, string(rune('a'+i))+".png")
		if err := os.WriteFile(path, p.PNG, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// TestRecordedPictures: the demo checkpoint says of the two pictures what the reference said.
func TestRecordedPictures(t *testing.T) {
	paths := pictureFiles(t)
	for i, p := range recorded.Pictures() {
		for _, template := range []string{"native", "checkpoint"} {
			got := command(t, "", nil, "chat", "--greedy", "--chat-template", template, "--image", paths[i], p.Question)
			if want := (outcome{0, p.Answer + "\n", ""}); got != want {
				t.Errorf("picture %d, %s template: got %+v, want %+v", i, template, got, want)
			}
		}
	}
}

// Pictures that are dropped into a conversation go with the message, or with the next one.
func TestDroppedPictures(t *testing.T) {
	paths, p := pictureFiles(t), recorded.Pictures()
	escaped := strings.ReplaceAll(paths[0], " ", `\ `)
	lines := []string{
		escaped + " " + p[0].Question,
		"/clear",
		"'" + paths[1] + "'",
		p[1].Question,
		"/clear",
		p[0].Question + " file://" + strings.ReplaceAll(paths[0], " ", "%20"),
	}
	got := command(t, strings.Join(lines, "\n")+"\n", nil, "chat", "--greedy", "--interactive")
	if want := p[0].Answer + "\n" + p[1].Answer + "\n" + p[0].Answer + "\n"; got.code != 0 || got.out != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	if !strings.Contains(got.errout, "1 picture(s) for the next message") {
		t.Errorf("no note of the picture without a text: %q", got.errout)
	}
}

func TestDroppedWords(t *testing.T) {
	paths := pictureFiles(t)
	for text, want := range map[string]struct {
		paths []string
		rest  string
	}{
		"What is 'this'?":                             {nil, "What is 'this'?"},
		"/nowhere/a.png  and  more":                   {nil, "/nowhere/a.png  and  more"},
		`"` + paths[0] + `" '` + paths[1] + `' both?`: {paths, "both?"},
		"it's a\nb":                                   {nil, "it's a\nb"},
		`a\ b \`:                                      {nil, `a\ b \`},
		"":                                            {nil, ""},
	} {
		if got, rest := dropped(text); !slices.Equal(got, want.paths) || rest != want.rest {
			t.Errorf("%q: got %q, %q", text, got, rest)
		}
	}
}

func TestPictureErrors(t *testing.T) {
	paths := pictureFiles(t)
	text := file(t, "a.png", "no picture")
	cut := file(t, "b.png", string(recorded.Pictures()[0].PNG[:400]))
	command(t, "", nil, "chat", "--image", text, "Hi").wants(t, exitFailed, "", "cannot use the picture "+text+": want an image file")
	command(t, "", []string{"LANG=zh_CN.UTF-8"}, "chat", "--image", text, "Hi").wants(t, exitFailed, "", "不是图片文件")
	command(t, "", nil, "chat", "--image", "/nowhere.png", "Hi").wants(t, exitFailed, "", "/nowhere.png")
	command(t, "", nil, "chat", "--image", filepath.Dir(text), "Hi").wants(t, exitFailed, "", "is not a file")
	got := command(t, "", nil, "chat", "--image", paths[0], "--image", cut, "Hi")
	if got.code != exitFailed || !strings.Contains(got.errout, "picture 2 cannot be read: want a whole file") {
		t.Errorf("a file that is cut off: got %+v", got)
	}
	blind := copyDemo(t, func(dir string) { os.Remove(filepath.Join(dir, "preprocessor_config.json")) })
	command(t, "", nil, "chat", "--model", blind, "--image", paths[0], "Hi").wants(t, exitModel, "", "preprocessor_config.json")
	command(t, "", nil, "chat", "--greedy", "--model", blind, "What is the capital of France?").wants(t, exitOK, "The capital of France is Paris.\n", "")
}

// generate puts pictures before the text.
func TestGenerateWithPicture(t *testing.T) {
	paths := pictureFiles(t)
	const text = "What is in this picture?<|eot|><|header_start|>assistant<|header_end|>\n\n"
	args := []string{"generate", "--greedy", "--special", "--max-tokens", "4", "--json"}
	one := command(t, "", nil, append(args, "--image", paths[0], text)...)
	two := command(t, "", nil, append(args, "--image", paths[1], text)...)
	none := command(t, "", nil, append(args, text)...)
	if one.code != 0 || two.code != 0 || none.code != 0 || one.out == none.out || two.out == one.out {
		t.Errorf("got %+v, %+v, %+v", one, two, none)
	}
}

// The vision tower's values of a picture go into a trace beside the text model's, and change nothing.
func TestTracePictures(t *testing.T) {
	paths := pictureFiles(t)
	path := filepath.Join(t.TempDir(), "trace.safetensors")
	args := []string{"--max-tokens", "4", "--image", paths[0], "--image", paths[1], "What?"}
	plain := generateJSON(t, args...)
	traced := generateJSON(t, append([]string{"--trace", path, "--capture", "vision.*", "--capture", "embed"}, args...)...)
	if !slices.Equal(traced.IDs, plain.IDs) || !slices.Equal(traced.LogProbs, plain.LogProbs) {
		t.Errorf("capturing changes the answer: got %+v, want %+v", traced, plain)
	}
	f, err := safetensors.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	values := func(name string, rows, width int) []float32 {
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(x.Shape, []int{rows, width}) {
			t.Errorf("%s has the shape %v, want [%d, %d]", name, x.Shape, rows, width)
		}
		v, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const tiles, dim = 1 + 3, 256
	values("vision.blocks.3.hook_resid_post", tiles*65, 128)
	embed, projected := values("embed", len(plain.PromptIDs)+len(plain.IDs)-1, dim), values("vision.projected", tiles*16, dim)
	row := 0
	for at := range plain.PromptIDs {
		if row < tiles*16 && slices.Equal(embed[at*dim:][:dim], projected[row*dim:][:dim]) {
			row++
		}
	}
	if row != tiles*16 {
		t.Errorf("%d of %d rows of the pictures stand in the prompt in their order", row, tiles*16)
	}
	command(t, "", nil, "generate", "--trace", path, "--capture", "vision.*", "Hi").wants(t, exitUsage, "", "--image")
}
