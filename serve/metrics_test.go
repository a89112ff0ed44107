package serve_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"chulengo/engine"
	"chulengo/serve"
)

// scrape is what Prometheus reads: the value of every sample, as name{label="value",…}; histograms as name_count and
// name_sum.
func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	response, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || !strings.HasPrefix(kind, "text/plain") {
		t.Fatalf("/metrics: %d, %s", response.StatusCode, kind)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for name, family := range families {
		if strings.HasPrefix(name, "chulengo:") && family.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		for _, metric := range family.GetMetric() {
			labels := ""
			for _, label := range metric.GetLabel() {
				labels += fmt.Sprintf(",%s=%q", label.GetName(), label.GetValue())
			}
			labels = "{" + strings.TrimPrefix(labels, ",") + "}"
			switch h := metric.GetHistogram(); {
			case h != nil:
				samples[name+"_count"+labels], samples[name+"_sum"+labels] = float64(h.GetSampleCount()), h.GetSampleSum()
				last := uint64(0)
				for _, b := range h.GetBucket() {
					if b.GetCumulativeCount() < last {
						t.Errorf("%s: buckets fall", name)
					}
					last = b.GetCumulativeCount()
				}
			case metric.GetCounter() != nil:
				if !strings.HasSuffix(name, "_total") && strings.HasPrefix(name, "chulengo:") {
					t.Errorf("%s is a counter", name)
				}
				samples[name+labels] = metric.GetCounter().GetValue()
			default:
				samples[name+labels] = metric.GetGauge().GetValue()
			}
		}
	}
	return samples
}

// TestMetrics: the numbers are those of the requests that were made.
func TestMetrics(t *testing.T) {
	s, e := demoSite(t, serve.Options{Version: "v9"}, engine.Options{Context: 1024, MaxSequences: 1, MaxQueue: 1, PageTokens: 16})
	c := s.program()
	const of = `{model_name="chulengo-demo"}`
	before := scrape(t, s.url)
	if before["chulengo:num_requests_running"+of] != 0 || before[`chulengo:build_info{version="v9"}`] != 1 {
		t.Errorf("before: %v", before)
	}
	prompt, generated := 0.0, 0.0
	ask := func(fields object) object {
		t.Helper()
		fields["messages"] = []object{{"role": "user", "content": "Tell me a long story about a llama who lives on a high mountain, please."}}
		status, got := c.post("/v1/chat/completions", fields)
		if status != 200 {
			t.Fatalf("%v: %d %v", fields, status, got)
		}
		usage := got["usage"].(object)
		prompt += usage["prompt_tokens"].(float64)
		generated += usage["completion_tokens"].(float64)
		return usage
	}
	ask(object{"max_tokens": 5, "ignore_eos": true})
	usage := ask(object{"max_tokens": 7, "ignore_eos": true, "n": 2})
	cached := usage["prompt_tokens_details"].(object)["cached_tokens"].(float64)
	ask(object{"max_tokens": 200, "stop": []string{"e"}})

	// One runs, one waits, one is refused. The one that waits goes away first: else it might run for a moment.
	gone, heard := make(chan struct{}, 2), make(chan struct{}, 2)
	var cancel [2]context.CancelFunc
	for i := range 2 {
		var ctx context.Context
		ctx, cancel[i] = context.WithCancel(context.Background())
		defer cancel[i]()
		go func() {
			response, err := c.http.Do(c.request(ctx, "POST", "/v1/chat/completions", object{"ignore_eos": true, "stream": true,
				"messages": []object{{"role": "user", "content": "hi"}}}))
			if err == nil {
				io.ReadFull(response.Body, make([]byte, 1))
				heard <- struct{}{}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			gone <- struct{}{}
		}()
		eventually(t, "requests run and wait", func() bool { s := e.Stats(); return s.Running == 1 && s.Queued == i })
	}
	<-heard
	during := scrape(t, s.url)
	if during["chulengo:num_requests_running"+of] != 1 || during["chulengo:num_requests_waiting"+of] != 1 || during["chulengo:kv_cache_usage_perc"+of] <= 0 {
		t.Errorf("gauges: %v running, %v waiting, %v of the pages in use", during["chulengo:num_requests_running"+of], during["chulengo:num_requests_waiting"+of], during["chulengo:kv_cache_usage_perc"+of])
	}
	if status, got := c.post("/v1/chat/completions", object{"messages": []object{{"role": "user", "content": "hi"}}}); status != 503 {
		t.Errorf("one too many: %d %v", status, got)
	}
	cancel[1]()
	<-gone
	eventually(t, "nobody waits", func() bool { return e.Stats().Queued == 0 })
	cancel[0]()
	<-gone
	eventually(t, "the engine rests", func() bool {
		s := e.Stats()
		return s.Running+s.Queued == 0 && scrapeOnce(c, `request_success_total{finished_reason="cancelled",model_name="chulengo-demo"} 2`)
	})

	after, stats := scrape(t, s.url), e.Stats()
	is := func(name string, want float64) {
		t.Helper()
		if got, ok := after["chulengo:"+name]; !ok || math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	is("num_requests_running"+of, 0)
	is("num_requests_waiting"+of, 0)
	is("kv_cache_usage_perc"+of, 0)
	is("requests_refused_total"+of, 1)
	is("num_preemptions_total"+of, 0)
	is(`request_success_total{finished_reason="length",model_name="chulengo-demo"}`, 2)
	is(`request_success_total{finished_reason="stop",model_name="chulengo-demo"}`, 1)
	is(`request_success_total{finished_reason="cancelled",model_name="chulengo-demo"}`, 2)
	is("prompt_tokens_total"+of, float64(stats.PromptTokens))
	is("generation_tokens_total"+of, float64(stats.GeneratedTokens))
	is("prefix_cache_queries_total"+of, float64(stats.PrefixQueries))
	is("prefix_cache_hits_total"+of, float64(stats.PrefixHits))
	is("steps_total"+of, float64(stats.Steps))
	if cached < 16 || after["chulengo:prefix_cache_hits_total"+of] < cached {
		t.Errorf("%v cached tokens, %v hits", cached, after["chulengo:prefix_cache_hits_total"+of])
	}
	is("iteration_tokens_total_count"+of, float64(stats.Steps))
	is("iteration_tokens_total_sum"+of, float64(stats.StepRows))
	for _, name := range []string{"e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
		"request_inference_time_seconds", "request_prompt_tokens", "request_generation_tokens", "request_params_n"} {
		is(name+"_count"+of, 5)
	}
	is("time_to_first_token_seconds_count"+of, 4) // the one that waited had none
	is("request_params_max_tokens_sum"+of, 5+7+200)
	is("request_params_n_sum"+of, 6)
	finished := after["chulengo:request_generation_tokens_sum"+of]
	if finished < generated || finished > float64(stats.GeneratedTokens) {
		t.Errorf("%v tokens of requests, want from %v to %v", finished, generated, stats.GeneratedTokens)
	}
	// Every token but the five answers' first has one before it; the one that went away may have drawn some that it did not read.
	is("inter_token_latency_seconds_count"+of, float64(stats.GeneratedTokens-5))
	if sum, decode := after["chulengo:inter_token_latency_seconds_sum"+of], after["chulengo:request_decode_time_seconds_sum"+of]; sum <= 0 || sum < decode {
		t.Errorf("%v s between tokens, %v s of decoding", sum, decode)
	}
	if e2e, ttft := after["chulengo:e2e_request_latency_seconds_sum"+of], after["chulengo:time_to_first_token_seconds_sum"+of]; ttft <= 0 || e2e <= ttft {
		t.Errorf("%v s to first tokens, %v s in all", ttft, e2e)
	}
	routed := 0.0
	for name, v := range after {
		if strings.HasPrefix(name, "chulengo:expert_tokens_total{") && strings.Contains(name, `layer="0"`) {
			routed += v
		}
	}
	if routed != float64(stats.StepRows) {
		t.Errorf("%v tokens went to experts of layer 0, want %d", routed, stats.StepRows)
	}
	if v := after[`chulengo:expert_load_imbalance{layer="0",model_name="chulengo-demo"}`]; v < 1 || v > 8 {
		t.Errorf("imbalance %v, want from 1 to the 8 experts", v)
	}
}

// scrapeOnce says whether the metrics have a line.
func scrapeOnce(c *client, line string) bool {
	response, err := c.http.Get(c.url + "/metrics")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return strings.Contains(string(text), "\nchulengo:"+line+"\n")
}
