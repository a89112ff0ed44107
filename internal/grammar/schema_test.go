package grammar

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaCases are schemas with texts that their grammars have and have not.
var schemaCases = []struct {
	schema  string
	yes, no []string
}{
	{`true`, []string{`1`, `"a"`, `{"a": [null]}`}, []string{``, `a`}},
	{`{}`, []string{`1`, `[]`}, []string{`{`}},
	{`{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false}`,
		[]string{`{"name":"x","age":1}`, `{"name": "x", "age": -1}`, "{\n  \"name\": \"é\\n\",\n  \"age\": 0\n}"},
		[]string{`{}`, `{"age":1,"name":"x"}`, `{"name":"x"}`, `{"name":"x","age":1,"b":2}`, `{"name":"x","age":1.5}`, `{"name":1,"age":1}`, `{"name":"x","age":01}`, `{"name":"x","age":-0}`}},
	{`{"properties":{"a":{"type":"null"},"b":{"type":"boolean"},"c":{"const":"x"}},"required":["b"]}`,
		[]string{`{"b":true}`, `{"a":null,"b":false,"c":"x"}`, `{"b":true,"c":"x"}`, `{ "a": null, "b": true }`},
		[]string{`{}`, `{"a":null}`, `{"a":null,"c":"x"}`, `{,"b":true}`, `{"a":null "b":true}`, `[]`}},
	{`{"type":"object","properties":{"a":{"type":"integer"},"ab":{}},"additionalProperties":{"type":"string"}}`,
		[]string{`{}`, `{"a":1}`, `{"b":"x","c":"y"}`, `{"a":1,"b":"x"}`, `{"":"x"}`, `{"aa":"x"}`, `{"abc":"x"}`, `{"ab":{"a":"x"}}`},
		[]string{`{"a":"x"}`, `{"b":1}`, `{"\u0061":"x"}`, `{"a":1,"a":"x"}`}},
	{`{"type":"object"}`, []string{`{}`, `{"a":[{}]}`}, []string{`[]`}},
	{`{"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,"maxProperties":2}`, []string{`{"a":1}`, `{"a":1, "b":2}`}, []string{`{}`, `{"a":1,"b":2,"c":3}`}},
	{`{"type":"object","properties":{},"additionalProperties":false}`, []string{`{}`, `{ }`}, []string{`{"a":1}`}},
	{`{"type":"object","required":["x"]}`, []string{`{"x":1}`, `{"x":null,"y":2}`}, []string{`{}`, `{"y":2}`}},
	{`{"type":["string","null"]}`, []string{`"a"`, `null`}, []string{`1`}},
	{`{"type":"string","nullable":true}`, []string{`"a"`, `null`}, []string{`1`}},
	{`{"enum":["red","green",1,null,{"a":[1,"é\"\n"]},1.50]}`, []string{`"red"`, `1`, `null`, `{"a":[1,"é\"\n"]}`, `1.50`}, []string{`"re"`, `"blue"`, `2`}},
	{`{"type":"string","enum":["a","bc",1],"minLength":2}`, []string{`"bc"`}, []string{`"a"`, `1`, `"x"`}},
	{`{"const":{"b":1,"a":2}}`, []string{`{"b":1,"a":2}`}, []string{`{"a":2,"b":1}`}},
	{`{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"日本é"`, `"\n\ud83d\ude00"`, `"\"\\"`}, []string{`"a"`, `"abcd"`, `"\ud83d"`, `"ab`}},
	{`{"type":"string","maxLength":0}`, []string{`""`}, []string{`"a"`}},
	{`{"type":"string","maxLength":5000}`, []string{`""`, `"` + strings.Repeat("x", 5000) + `"`}, []string{`"` + strings.Repeat("x", 5001) + `"`}},
	{`{"type":"string","pattern":"^[A-Z]{2}\"\\d+$"}`, []string{`"AB\"1"`}, []string{`"AB1"`, `"AB"1"`}},
	{`{"type":"string","pattern":"b+"}`, []string{`"b"`, `"abbc"`, `"\nb"`}, []string{`"a"`, `""`}},
	{`{"type":"string","pattern":"^a|b$"}`, []string{`"a"`, `"ac"`, `"b"`, `"cb"`}, []string{`"ca"`, `"bc"`}},
	{`{"type":"string","pattern":"^[a-z_]*$","minLength":2,"maxLength":4}`, []string{`"ab"`, `"a_bc"`}, []string{`"a"`, `"abcde"`}},
	{`{"type":"string","pattern":"^.\\S$"}`, []string{`"aé"`, `" \""`}, []string{`"\ra"`, `"\u2028a"`, `"a\n"`, `"a "`, "\"a\u00a0\"", `"a\u000b"`}},
	{`{"type":"string","pattern":"^a[\\t\\n]b$"}`, []string{`"a\tb"`, `"a\nb"`}, []string{"\"a\tb\"", `"a b"`}},
	{`{"type":"string","format":"date"}`, []string{`"2024-02-28"`, `"1999-12-31"`}, []string{`"2024-02-30"`, `"2024-13-01"`, `"24-01-01"`}},
	{`{"type":"string","format":"date-time"}`, []string{`"2024-02-28T23:59:59Z"`, `"2024-02-28T00:00:00.123+02:00"`}, []string{`"2024-02-28"`, `"2024-02-28T24:00:00Z"`}},
	{`{"type":"string","format":"uuid"}`, []string{`"123e4567-e89b-12d3-a456-426614174000"`}, []string{`"123e4567e89b12d3a456426614174000"`}},
	{`{"type":"string","format":"email"}`, []string{`"a.b@example.com"`}, []string{`"a"`, `"a@b"`, `".a@b.c"`}},
	{`{"type":"string","format":"ipv4"}`, []string{`"192.168.0.255"`}, []string{`"256.1.1.1"`, `"01.1.1.1"`}},
	{`{"type":"string","format":"ipv6"}`, []string{`"::"`, `"::1"`, `"fe80::1:2"`, `"1:2:3:4:5:6:7:8"`, `"1::"`, `"1:2:3:4:5:6:7::"`}, []string{`"1:2"`, `"1::2::3"`, `"1:2:3:4:5:6:7:8:9"`, `":1"`}},
	{`{"type":"string","format":"uri"}`, []string{`"https://example.com/a?b=c#d"`, `"ftp://x"`}, []string{`"example.com"`, `"https://"`, `"https://a b"`}},
	{`{"type":"string","format":"duration"}`, []string{`"P1D"`, `"PT5M"`, `"P1Y2M3DT4H5M6S"`, `"P2W"`}, []string{`"P"`, `"PT"`, `"1D"`}},
	{`{"type":"integer","minimum":0,"maximum":255}`, []string{`0`, `9`, `42`, `199`, `255`}, []string{`-1`, `256`, `00`, `1.0`, `1000`}},
	{`{"type":"integer","minimum":-15,"exclusiveMaximum":-3}`, []string{`-15`, `-9`, `-4`}, []string{`-16`, `-3`, `0`, `4`}},
	{`{"type":"integer","minimum":-5,"maximum":12}`, []string{`-5`, `-1`, `0`, `12`}, []string{`-6`, `13`}},
	{`{"type":"integer","minimum":1}`, []string{`1`, `123456789012345678`}, []string{`0`, `-1`, `1e5`}},
	{`{"type":"integer","maximum":100}`, []string{`100`, `-123456`, `0`}, []string{`101`}},
	{`{"type":"integer","minimum":0.5,"maximum":2.5}`, []string{`1`, `2`}, []string{`0`, `3`}},
	{`{"type":"number","minimum":0,"maximum":1}`, []string{`0`, `1`, `0.5`, `1.0`, `0.0`}, []string{`1.01`, `-0.1`, `2`, `1e-3`, `.5`}},
	{`{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1}`, []string{`0.5`, `0.001`, `0.99`}, []string{`0`, `0.0`, `1`, `1.0`}},
	{`{"type":"number","minimum":1.25,"maximum":10.5}`, []string{`1.25`, `1.3`, `2`, `9.99`, `10.5`, `10.50`, `10.49`, `10`}, []string{`1.2`, `1`, `10.51`, `11`, `1.249`}},
	{`{"type":"number","minimum":-1.5,"maximum":1.25}`, []string{`-1.5`, `-0.3`, `0`, `1.25`, `1.2`, `-1`}, []string{`-1.51`, `1.26`, `-2`, `2`}},
	{`{"type":"number","minimum":3}`, []string{`3`, `3.0`, `44.5`}, []string{`2.9`, `-4`}},
	{`{"type":"number","multipleOf":0.01}`, []string{`3`, `3.25`, `-0.5`}, []string{`3.255`, `1e5`}},
	{`{"type":"number","multipleOf":1}`, []string{`3`}, []string{`3.5`}},
	{`{"type":"number"}`, []string{`3`, `-3.25e+10`, `1E5`}, []string{`1e100`, `+1`, `01`, `.5`, `1.`}},
	{`{"type":"integer","format":"int32"}`, []string{`2147483647`, `-2147483648`}, []string{`2147483648`}},
	{`{"type":"integer","format":"int64"}`, []string{`9223372036854775807`}, []string{`9223372036854775808`}},
	{`{"type":"array","items":{"type":"integer"}}`, []string{`[]`, `[1]`, `[1, 2,3]`, "[\n  1,\n  2\n]"}, []string{`[1,]`, `[,1]`, `["a"]`, `[1 2]`}},
	{`{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":2}`, []string{`[1]`, `[1,2]`}, []string{`[]`, `[1,2,3]`}},
	{`{"type":"array","maxItems":0}`, []string{`[]`}, []string{`[1]`}},
	{`{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false,"minItems":2}`, []string{`[1,"a"]`}, []string{`[1]`, `[]`, `[1,"a",2]`, `["a",1]`}},
	{`{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"}}`, []string{`[]`, `[1]`, `[1,"a"]`, `[1,"a",null, null]`}, []string{`[null]`, `[1,"a",1]`}},
	{`{"type":"array","items":[{"type":"integer"}],"additionalItems":false}`, []string{`[]`, `[1]`}, []string{`[1,2]`, `["a"]`}},
	{`{"type":"array","items":{"enum":["a","b",1,1.0]},"uniqueItems":true}`, []string{`[]`, `["b", "a"]`, `["a",1]`, `[1,"b","a"]`}, []string{`["a","a"]`, `[1,1.0]`, `["a",1,"a"]`}},
	{`{"type":"array","items":{"type":"boolean"},"uniqueItems":true,"minItems":1}`, []string{`[true]`, `[false,true]`}, []string{`[]`, `[true,true]`}},
	{`{"type":"array","items":{"enum":["a","b","c"]},"uniqueItems":true,"minItems":1,"maxItems":2}`, []string{`["c"]`, `["b","a"]`}, []string{`[]`, `["a","b","c"]`}},
	{`{"type":"array","uniqueItems":true,"maxItems":1}`, []string{`[]`, `[{}]`}, []string{`[1,2]`}},
	{`{"anyOf":[{"type":"string"},{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}]}`, []string{`"x"`, `{"a":1}`}, []string{`1`, `{}`}},
	{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"anyOf":[{"required":["a"]},{"required":["b"]}]}`, []string{`{"a":1}`, `{"b":1}`, `{"a":1,"b":2}`}, []string{`{}`}},
	{`{"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind","x"]},{"type":"object","properties":{"kind":{"const":"b"}},"required":["kind"]},{"type":"null"}]}`,
		[]string{`{"kind":"a","x":1}`, `{"kind":"b"}`, `null`}, []string{`{"kind":"a"}`, `{"kind":"b","x":1}`, `{"kind":"c"}`}},
	{`{"oneOf":[{"$ref":"#/$defs/Cat"},{"$ref":"#/$defs/Dog"}],"discriminator":{"propertyName":"kind"},"$defs":{"Cat":{"type":"object","properties":{"name":{"type":"string"},"kind":{"const":"cat","default":"cat","type":"string"}}},"Dog":{"type":"object","properties":{"kind":{"enum":["dog","hound"]},"name":{"type":"string"}},"required":["name"]}}}`,
		[]string{`{"kind":"cat"}`, `{"name":"x","kind":"cat"}`, `{"kind":"hound","name":"x"}`}, []string{`{}`, `{"name":"x"}`, `{"kind":"dog"}`}},
	{`{"oneOf":[{"type":"object","properties":{"a":{}},"required":["a"],"additionalProperties":false},{"type":"object","properties":{"b":{}},"required":["b"],"additionalProperties":false}]}`, []string{`{"a":1}`, `{"b":1}`}, []string{`{"a":1,"b":1}`, `{}`}},
	{`{"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"a":{"minimum":3},"b":{"type":"string"}}}]}`, []string{`{"a":3}`, `{"a":4,"b":"x"}`}, []string{`{"a":2}`, `{"b":"x"}`}},
	{`{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}}}`,
		[]string{`{"v":1,"next":null}`, `{"v":1,"next":{"v":2,"next":{"v":3,"next":null}}}`}, []string{`{"v":1}`, `{"v":1,"next":{}}`}},
	{`{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#"}}},"required":["children"],"additionalProperties":false}`, []string{`{"children":[]}`, `{"children":[{"children":[]},{"children":[{"children":[]}]}]}`}, []string{`{}`, `{"children":[{}]}`}},
	{`{"allOf":[{"$ref":"#/definitions/a"}],"description":"x","definitions":{"a":{"allOf":[{"$ref":"#/definitions/a~1b"}]},"a/b":{"type":"string","title":"t","x-order":1}}}`, []string{`"x"`}, []string{`1`}},
	{`{"$ref":"#/$defs/a","$defs":{"a":{"type":"string","allOf":[{"$ref":"#/$defs/a"}]}}}`, []string{`"x"`}, []string{`1`}},
	{`{"type":"object","properties":{"a":{"type":"string"},"bad":false},"required":["a"]}`, []string{`{"a":"x"}`}, []string{`{"a":"x","bad":1}`}},
	{`{"type":"object","propertyNames":{"type":"string"},"additionalProperties":{"type":"integer"}}`, []string{`{}`, `{"a\n":1,"b":2}`}, []string{`{"a":"x"}`}},
	{`{"type":"object","propertyNames":{"pattern":"^[a-z]+$","maxLength":3},"additionalProperties":{"type":"integer"},"minProperties":1}`, []string{`{"abc":1,"b":2}`}, []string{`{}`, `{"A":1}`, `{"abcd":1}`}},
	{`{"type":"object","propertyNames":{"enum":["a","b"]}}`, []string{`{}`, `{"a":1,"b":[]}`}, []string{`{"c":1}`}},
	{`{"type":"object","patternProperties":{"^x-[a-z]$":{"type":"boolean"}},"additionalProperties":false}`, []string{`{}`, `{"x-a":true, "x-b":false}`}, []string{`{"a":true}`, `{"x-a":1}`}},
	{`{"type":"object","patternProperties":{"^a":{"type":"boolean"}},"minProperties":1,"maxProperties":1}`, []string{`{"ab":true}`}, []string{`{}`, `{"b":true}`, `{"a":true,"ab":true}`}},
	{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"not":{}}}}`, []string{`{}`, `{"a":1}`}, []string{`{"b":1}`}},
	{`{"type":"object","properties":{"id":{"type":"string","format":"uuid4"},"secret":{"type":"string","format":"password"}}}`, []string{`{"id":"123e4567-e89b-42d3-a456-426614174000","secret":"x"}`}, []string{`{"id":"123e4567-e89b-12d3-a456-426614174000"}`}},
	{`{"type":"object","properties":{"q\"\n":{"type":"null"}},"required":["q\"\n"]}`, []string{`{"q\"\n":null}`}, []string{`{}`}},
}

func TestJSONSchema(t *testing.T) {
	for _, c := range schemaCases {
		t.Run(c.schema, func(t *testing.T) {
			checkMatches(t, compiled(t)(JSONSchema(json.RawMessage(c.schema))), c.yes, c.no)
		})
	}
}

// oracle reads a schema with a validator that others keep. It knows nothing of OpenAPI's words, and asserts formats.
func oracle(t testing.TB, schema string) *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if strings.Contains(schema, `"additionalItems"`) {
		c.DefaultDraft(jsonschema.Draft7)
	}
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// TestAnswersFollowSchema writes texts at random, token by token as an engine would, and lets the validator judge them.
func TestAnswersFollowSchema(t *testing.T) {
	v, stop := listed(jsonWords...)
	for _, c := range schemaCases {
		if strings.Contains(c.schema, "nullable") || strings.Contains(c.schema, "int32") || strings.Contains(c.schema, "int64") {
			continue // no words of JSON schema
		}
		if strings.Contains(c.schema, `"allOf":[{"$ref":"#/$defs/a"}]`) {
			continue // the validator refuses what refers to itself
		}
		t.Run(c.schema, func(t *testing.T) {
			judge := oracle(t, c.schema)
			for _, text := range c.yes { // the table itself
				checkJudged(t, judge, text)
			}
			g := compiled(t)(JSONSchema(json.RawMessage(c.schema)))
			for seed := range uint64(12) {
				text := writeAtRandom(t, g, v, stop, seed)
				checkJudged(t, judge, text)
				random := rand.New(rand.NewPCG(seed, 5))
				for range 30 { // with one byte other, gone, or twice: what still matches is judged too
					i := random.IntN(len(text))
					with := []string{"", text[i:i+1] + text[i:i+1], string(`",:{}[]019-.ae`[random.IntN(14)])}[random.IntN(3)]
					if mutant := text[:i] + with + text[i+1:]; g.Matches(mutant) {
						checkJudged(t, judge, mutant)
					}
				}
			}
		})
	}
}

func checkJudged(t *testing.T, judge *jsonschema.Schema, text string) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = judge.Validate(value)
	}
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

// writeAtRandom draws tokens until the answer may end; after a while it draws those that end something.
func writeAtRandom(t *testing.T, g *Grammar, v *Vocabulary, stop int32, seed uint64) string {
	random := rand.New(rand.NewPCG(seed, 2))
	m := g.Matcher(v)
	var out strings.Builder
	for step := 0; ; step++ {
		mask := m.Mask()
		var ids []int32
		for id := range int32(v.size) {
			if mask[id/32]>>(id%32)&1 == 1 {
				ids = append(ids, id)
			}
		}
		if len(ids) == 0 {
			t.Fatalf("seed %d: a dead end after %q", seed, out.String())
		}
		if m.MayEnd() && (random.IntN(3) == 0 || step > 100 || len(ids) == 1) {
			return out.String()
		}
		id := ids[random.IntN(len(ids))]
		for tries := 0; id == stop || tries < 20 && step > 60 && !strings.Contains(`"}]nul0`, string(v.bytes[id])); tries++ {
			id = ids[random.IntN(len(ids))]
		}
		if step > 20_000 {
			t.Fatalf("seed %d: no end", seed)
		}
		if err := m.Accept(id); err != nil {
			t.Fatal(err)
		}
		out.Write(v.bytes[id])
	}
}

func TestSchemaErrors(t *testing.T) {
	for schema, want := range map[string]string{
		``:                 "unexpected",
		`{"a":1,"a":2}`:    `key "a" is there twice`,
		`{} {}`:            "nothing after",
		`5`:                "#: want a schema",
		`{"type":"strin"}`: "#: type: want null",
		`{"properties":{"a":{"not":{"type":"null"}}}}`: "#/properties/a: not: is supported for true",
		`{"if":{}}`:  "#: if: is not supported",
		`{"typo":1}`: "#: typo: is not supported",
		`{"items":{"anyOf":[{"uniqueItems":true}]}}`:                         "#/items/anyOf/0: uniqueItems: cannot be enforced unless",
		`{"properties":{"a":{}},"patternProperties":{"b":{}}}`:               "patternProperties: cannot be enforced unless",
		`{"type":"number","multipleOf":3}`:                                   "multipleOf: want 1, 0.1",
		`{"$ref":"#/$defs/x"}`:                                               `"#/$defs/x" is not there`,
		`{"$ref":"other.json"}`:                                              "want a reference within the schema",
		`{"$ref":"#"}`:                                                       "", // nothing but itself: any value, says the specification
		`{"anyOf":[{"$ref":"#"},{"type":"string"}]}`:                         "stands within its own anyOf",
		`{"anyOf":[]}`:                                                       "anyOf: want a list that is not empty",
		`{"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]}`:      "oneOf: a value may fit both schema 0 and schema 1",
		`{"type":"string","format":"color"}`:                                 `format: "color" is not supported`,
		`{"type":"string","pattern":"(?=a)"}`:                                "pattern: ",
		`{"type":"string","pattern":"a\\bb"}`:                                "pattern: ",
		`{"type":"string","pattern":"a+b+","maxLength":5}`:                   "pattern: cannot be enforced together with minLength",
		`{"type":"string","pattern":"a","format":"date"}`:                    "format: cannot be enforced together",
		`{"type":"string","maxLength":-1}`:                                   "maxLength: want a number 0, 1, 2",
		`{"type":"string","maxLength":1000000}`:                              "too large",
		`{"type":"string","minLength":3,"maxLength":2}`:                      "no text follows it",
		`{"type":"integer","minimum":5,"maximum":4}`:                         "no text follows it",
		`{"type":"integer","minimum":1e1000000000}`:                          "minimum: want an exponent",
		`{"type":"object","required":["a"],"additionalProperties":false}`:    "no text follows it",
		`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`: "no text follows it",
		`{"type":"object","properties":{"a":{}},"minProperties":1}`:          "minProperties: cannot be enforced together with properties",
		`{"required":"a"}`:                                                   "required: want a list of names",
		`{"properties":[]}`:                                                  "properties: want an object",
		`{"nullable":true}`:                                                  "nullable: want",
		strings.Repeat(`{"items":`, 2000) + `{}` + strings.Repeat(`}`, 2000): "within each other",
		"{\"const\":\"\xff\"}":                                               "want UTF-8",
	} {
		_, err := JSONSchema(json.RawMessage(schema))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.80s: want an error with %q, got %v", schema, want, err)
		}
	}
	var at *SchemaError
	if _, err := JSONSchema(json.RawMessage(`{"properties":{"a":{"not":{"type":"null"}}}}`)); !errors.As(err, &at) || at.Path != "#/properties/a" || at.Keyword != "not" {
		t.Errorf("got %#v", at)
	}
}

// TestHostileSchemas compiles what grows without bound when it is read naively.
func TestHostileSchemas(t *testing.T) {
	double := `{"$ref":"#/$defs/d0","$defs":{`
	for i := range 60 {
		next := `"#/$defs/d` + string(rune('0'+i/10)) + string(rune('0'+i%10)) + `"`
		name := `"d0"`
		if i > 0 {
			name = `"d` + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10)) + `"`
		}
		double += name + `:{"type":"array","prefixItems":[{"$ref":` + next + `},{"$ref":` + next + `}],"minItems":2},`
	}
	double += `"d59":{"type":"null"}}}`
	var both []string
	for i := range 24 {
		c := string(rune('a' + i))
		both = append(both, `{"anyOf":[{"properties":{"`+c+`":{"type":"integer"}}},{"properties":{"`+c+`":{"type":"string"}}}]}`)
	}
	var wide []string
	for i := range 2000 {
		wide = append(wide, `"p`+strings.Repeat("x", i%7)+string(rune('a'+i%26))+string(rune('A'+i/26%26))+string(rune('0'+i/676))+`":{"type":"string","maxLength":9}`)
	}
	for name, schema := range map[string]string{
		"doubling references": double,
		"all of any":          `{"allOf":[` + strings.Join(both, ",") + `]}`,
		"many properties":     `{"type":"object","properties":{` + strings.Join(wide, ",") + `}}`,
		"nested repetition":   strings.Repeat(`{"type":"array","minItems":1000,"maxItems":60000,"items":`, 20) + `{}` + strings.Repeat(`}`, 20),
		"pattern":             `{"type":"string","pattern":"^((((a{1,30}){1,30})b){1,1000})*$"}`,
		"many one of":         `{"oneOf":[` + strings.Repeat(`{"const":1},`, 3000) + `{"const":2}]}`,
		"huge bounds":         `{"type":"number","minimum":1.` + strings.Repeat("1", 900) + `,"maximum":1` + strings.Repeat("9", 399) + `}`,
	} {
		start := time.Now()
		_, err := JSONSchema(json.RawMessage(schema))
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %v (error %v)", name, took, err)
		}
	}
}

func FuzzJSONSchema(f *testing.F) {
	for _, c := range schemaCases {
		f.Add([]byte(c.schema), uint64(1))
	}
	v, stop := listed(jsonWords...)
	f.Fuzz(func(t *testing.T, schema []byte, seed uint64) {
		begin := time.Now()
		g, err := JSONSchema(schema)
		checkTook(t, begin)
		if err != nil {
			return
		}
		m := g.Matcher(v)
		random := rand.New(rand.NewPCG(seed, 3))
		var out strings.Builder
		for range 40 {
			mask := m.Mask()
			var ids []int32
			for id := range int32(v.size) {
				if mask[id/32]>>(id%32)&1 == 1 {
					ids = append(ids, id)
				}
			}
			if len(ids) == 0 {
				t.Fatalf("a dead end after %q", out.String())
			}
			id := ids[random.IntN(len(ids))]
			if err := m.Accept(id); err != nil {
				t.Fatal(err)
			}
			if id == stop {
				if !json.Valid([]byte(out.String())) {
					t.Fatalf("not JSON: %q", out.String())
				}
				return
			}
			out.Write(v.bytes[id])
		}
	})
}
