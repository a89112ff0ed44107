package serve

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/engine"
)

// health is GET /health: whether questions are answered, in llama-server's words. It is 200 or 503.
func (s *Server) health(c echo.Context) error {
	status, text := s.condition()
	c.Response().Header().Set("Cache-Control", "no-store")
	if status == http.StatusOK {
		return c.JSON(status, map[string]any{"status": "ok"})
	}
	c.Response().Header().Set("Retry-After", "5")
	return c.JSON(status, map[string]any{"status": text,
		"error": map[string]any{"code": status, "message": text, "type": "unavailable_error"}})
}

// readyz is GET /readyz: whether a balancer should send questions here.
func (s *Server) readyz(c echo.Context) error {
	status, text := s.condition()
	c.Response().Header().Set("Cache-Control", "no-store")
	if status != http.StatusOK {
		c.Response().Header().Set("Retry-After", "5")
	}
	return c.JSON(status, map[string]any{"status": text})
}

// condition says how the server is, as a status and a word.
func (s *Server) condition() (status int, text string) {
	_, err := s.ready()
	switch {
	case s.drain.Err() != nil:
		return http.StatusServiceUnavailable, "Shutting down"
	case err == errModelFailed:
		return http.StatusServiceUnavailable, "Model could not be loaded"
	case err != nil:
		return http.StatusServiceUnavailable, "Loading model"
	}
	return http.StatusOK, "ready"
}

// version is GET /version.
func (s *Server) version(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]any{"version": s.options.Version})
}

// showMetrics is GET /metrics, for Prometheus.
func (s *Server) showMetrics(c echo.Context) error {
	s.metrics.ServeHTTP(c.Response(), c.Request())
	return nil
}

// modelName is the loaded model's name; "" before it is there.
func (s *Server) modelName() string {
	backend, err := s.ready()
	if err != nil {
		return ""
	}
	return backend.Info().Name
}

// stats are the loaded model's.
func (s *Server) stats() engine.Stats {
	backend, err := s.ready()
	if err != nil {
		return engine.Stats{}
	}
	return backend.Stats()
}

// Observe takes note of an ended request; it is for engine.Options.
func (s *Server) Observe(o engine.Observation) { s.metrics.Observe(o) }

// ObserveToken takes note of a token of an answer; it is for engine.Options too.
func (s *Server) ObserveToken(d time.Duration) { s.metrics.ObserveToken(d) }

// ObserveStep takes note of a step, likewise.
func (s *Server) ObserveStep(rows int, _ time.Duration) { s.metrics.ObserveStep(rows) }
