// Package metrics tells Prometheus how the engine is doing. Names are vLLM's with the prefix chulengo:, so that a
// dashboard made for one serves the other; expert_* are our own. All have the label model_name.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"chulengo/engine"
)

const prefix = "chulengo:"

// Buckets of vLLM's histograms: seconds, and tokens.
var (
	firstToken = []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	perToken   = []float64{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	seconds    = []float64{0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	tokens     = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000}
	counts     = []float64{1, 2, 5, 10, 20}
)

// Metrics collects. Its methods may be called concurrently.
type Metrics struct {
	model   func() string
	stats   func() engine.Stats
	handler http.Handler

	success                                                  *prometheus.CounterVec
	ttft, itl, tpot, endToEnd, queue, prefill, decode, infer *prometheus.HistogramVec
	prompt, generated, maxTokens, choices, rows              *prometheus.HistogramVec
}

// New gives metrics of the engine whose counters stats gives. model is "" before it is there; until then neither counts.
func New(version string, model func() string, stats func() engine.Stats) *Metrics {
	registry := prometheus.NewRegistry()
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, []string{"model_name"})
		registry.MustRegister(h)
		return h
	}
	m := &Metrics{
		model: model, stats: stats,
		success: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "request_success_total", Help: "Requests that ended, by why."},
			[]string{"model_name", "finished_reason"}),
		ttft:      histogram("time_to_first_token_seconds", "From submission to the first token.", firstToken),
		itl:       histogram("inter_token_latency_seconds", "From a token of an answer to the next.", perToken),
		tpot:      histogram("request_time_per_output_token_seconds", "The mean of that over a request.", perToken),
		endToEnd:  histogram("e2e_request_latency_seconds", "From submission to the end.", seconds),
		queue:     histogram("request_queue_time_seconds", "Before a request's first step.", seconds),
		prefill:   histogram("request_prefill_time_seconds", "From its first step to the first token.", seconds),
		decode:    histogram("request_decode_time_seconds", "From the first token to the last.", seconds),
		infer:     histogram("request_inference_time_seconds", "From a request's first step to its last.", seconds),
		prompt:    histogram("request_prompt_tokens", "Tokens of a prompt.", tokens),
		generated: histogram("request_generation_tokens", "Tokens of a request's answers.", tokens),
		maxTokens: histogram("request_params_max_tokens", "The longest answer that a request allowed.", tokens),
		rows:      histogram("iteration_tokens_total", "Tokens of a step.", []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}),
		choices:   histogram("request_params_n", "Answers that a request asked for.", counts),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "build_info", Help: "1, with the version.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	registry.MustRegister(m, m.success, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return m
}

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Observe takes note of a request that has ended.
func (m *Metrics) Observe(o engine.Observation) {
	model := m.model()
	if model == "" {
		return
	}
	m.success.WithLabelValues(model, string(o.Finish)).Inc()
	see := func(h *prometheus.HistogramVec, v float64) { h.WithLabelValues(model).Observe(v) }
	if o.FirstToken > 0 {
		see(m.ttft, o.FirstToken.Seconds())
	}
	if n := o.Generated / max(1, o.Choices); n > 1 {
		see(m.tpot, o.Decode.Seconds()/float64(n-1))
	}
	see(m.endToEnd, o.EndToEnd.Seconds())
	see(m.queue, o.Queue.Seconds())
	see(m.prefill, o.Prefill.Seconds())
	see(m.decode, o.Decode.Seconds())
	see(m.infer, (o.Prefill + o.Decode).Seconds())
	see(m.prompt, float64(o.Prompt))
	see(m.generated, float64(o.Generated))
	see(m.choices, float64(max(1, o.Choices)))
	if o.MaxTokens > 0 {
		see(m.maxTokens, float64(o.MaxTokens))
	}
}

// ObserveToken takes note of the time since an answer's token before.
func (m *Metrics) ObserveToken(d time.Duration) {
	if model := m.model(); model != "" {
		m.itl.WithLabelValues(model).Observe(d.Seconds())
	}
}

// ObserveStep takes note of a step of so many rows.
func (m *Metrics) ObserveStep(rows int) {
	if model := m.model(); model != "" {
		m.rows.WithLabelValues(model).Observe(float64(rows))
	}
}

// Describe implements prometheus.Collector. It describes nothing: which experts there are is known with the model.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector with the engine's own counters.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	model := m.model()
	if model == "" {
		return
	}
	s := m.stats()
	send := func(kind prometheus.ValueType, name, help string, v float64, labels ...string) {
		names := []string{"model_name"}
		values := []string{model}
		for i := 0; i < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(prefix+name, help, names, nil), kind, v, values...)
	}
	gauge := func(name, help string, v float64, labels ...string) {
		send(prometheus.GaugeValue, name, help, v, labels...)
	}
	counter := func(name, help string, v int64, labels ...string) {
		send(prometheus.CounterValue, name, help, float64(v), labels...)
	}
	gauge("num_requests_running", "Sequences that the engine works on.", float64(s.Running))
	gauge("num_requests_waiting", "Sequences that wait for it.", float64(s.Queued))
	used := 0.0 // of the group that is fullest: it decides who must wait
	for _, p := range s.Pages {
		if p.Total > 0 {
			used = max(used, float64(p.Used)/float64(p.Total))
		}
	}
	gauge("kv_cache_usage_perc", "Part of the key-value pages in use, 0 to 1.", used)
	counter("requests_refused_total", "Requests refused because the queue was full.", s.Refused)
	counter("num_preemptions_total", "Times that a sequence gave its pages away.", s.Preempted)
	counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", s.PrefixQueries)
	counter("prefix_cache_hits_total", "Of these, found.", s.PrefixHits)
	counter("pictures_encoded_total", "Times that a picture went through the vision tower.", s.Pictures.Encoded)
	counter("pictures_shared_total", "Times that a prompt came to a picture that was encoded already.", s.Pictures.Shared)
	gauge("pictures_bytes", "Memory of the device that encoded pictures take.", float64(s.Pictures.Bytes))
	counter("prompt_tokens_total", "Prompt tokens read.", s.PromptTokens)
	counter("generation_tokens_total", "Tokens drawn.", s.GeneratedTokens)
	counter("steps_total", "Steps of the device.", s.Steps)
	for layer, experts := range s.ExpertTokens {
		total, most := uint64(0), uint64(0)
		for expert, n := range experts {
			total, most = total+n, max(most, n)
			counter("expert_tokens_total", "Tokens routed to an expert.", int64(n), "layer", strconv.Itoa(layer), "expert", strconv.Itoa(expert))
		}
		if total > 0 {
			gauge("expert_load_imbalance", "Tokens of the busiest expert over the mean.",
				float64(most)*float64(len(experts))/float64(total), "layer", strconv.Itoa(layer))
		}
	}
}
