package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"chulengo/engine"
	"chulengo/serve/internal/completion"
	"chulengo/serve/internal/guard"
	"chulengo/serve/internal/metrics"
)

// Options configure a Server. The zero value serves through Handler only, with a history in memory.
type Options struct {
	Addr     string // host:port to listen on; "": Handler only
	BasePath string // path under which everything lies, such as /chat; "": the root
	Database string // postgres:// URL of chats that several servers share; "": SQLite in DataDir
	DataDir  string // folder of chats and the session key, made if absent; "": nothing is kept
	Page     string // the user's own index.html in place of the page; "": the page
	UI       fs.FS  // the page: index.html, static/; nil: the embedded one
	System   string // system message of every conversation; "": none
	Model    ModelInfo
	Version  string
	Sampling *engine.Sampling // in place of the model's; Seed 0: a fresh seed for every answer
	Logger   *slog.Logger     // nil: slog.Default()

	// Who may use the server; the zero values let everybody in who names it by an IP address or localhost.
	APIKeys        []string // programs send one of them, people log in with one; none: nobody needs one
	AllowedHosts   []string // further names in Host; "*": any, ".example.org": names below it
	Origins        []string // origins of other sites whose pages may use the API; "*": any
	TrustedProxies []string // addresses and ranges whose X-Forwarded-* are believed
	RateLimit      float64  // requests a second of each key (of each address without keys); 0: no limit
	RateBurst      int      // of these at once; 0: RateLimit rounded up
	FetchImages    bool     // pictures may be named by http(s) addresses, which the server gets; never from private networks
	LogPrompts     bool     // the beginnings of requests' bodies join the log

	AnswerTimeout time.Duration // longest answer of an API request; 0: no limit

	BodyLimit    int64         // bytes of a request's body; 0: 1 MiB
	DrainTimeout time.Duration // how long running answers may go on when the server ends; 0: a minute
	KeepAlive    time.Duration // silence on a stream before a comment line; 0: 15 s
	SaveEvery    time.Duration // how often a running answer is written to the history; 0: a second
}

// Server answers HTTP requests while and after the model loads.
type Server struct {
	options  Options
	log      *slog.Logger
	store    Store
	keys     keyring
	guard    *guard.Guard
	metrics  *metrics.Metrics
	listener net.Listener // nil without Options.Addr
	echo     *echo.Echo
	running  conversations
	visits   visits

	life     context.Context // over when answers must end
	endLife  context.CancelCauseFunc
	drain    context.Context // over when no new answers may begin
	endDrain context.CancelFunc

	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	freeOnce  sync.Once
	freeErr   error
	failed    chan struct{} // closed by Fail

	mu       sync.Mutex
	model    ModelInfo
	backend  Backend
	core     *completion.Core // of backend
	failure  error            // of loading
	done     int64            // bytes loaded
	total    int64
	serving  bool
	answers  int           // running
	finished chan struct{} // closed and replaced when one ends
}

// New opens the address, the history and the session key: whatever can fail early does so here. Errors: *OptionError,
// *ListenError, *StoreError, and others that name their file.
func New(o Options) (*Server, error) {
	setDefault(&o.BodyLimit, 1<<20)
	setDefault(&o.DrainTimeout, time.Minute)
	setDefault(&o.KeepAlive, 15*time.Second)
	setDefault(&o.SaveEvery, time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.UI == nil {
		o.UI = embeddedUI
	}
	base, err := cleanBasePath(o.BasePath)
	if err != nil {
		return nil, err
	}
	o.BasePath = base
	if o.Page != "" {
		if _, err := os.ReadFile(o.Page); err != nil {
			return nil, fmt.Errorf("serve: page: %w", err)
		}
	}
	s := &Server{options: o, log: o.Logger, model: o.Model,
		closing: make(chan struct{}), failed: make(chan struct{}), finished: make(chan struct{})}
	if s.guard, err = newGuard(o); err != nil {
		return nil, err
	}
	s.metrics = metrics.New(o.Version, s.modelName, s.stats)
	s.life, s.endLife = context.WithCancelCause(context.Background())
	s.drain, s.endDrain = context.WithCancel(context.Background())
	if o.Addr != "" {
		// First: a second chulengo on the same port should hear of the port, not of the history that the first holds.
		if s.listener, err = listen(o.Addr); err != nil {
			return nil, err
		}
	}
	if err := s.open(); err != nil {
		if s.listener != nil {
			s.listener.Close()
		}
		return nil, err
	}
	s.echo = s.routes()
	return s, nil
}

func setDefault[T int64 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// open opens what lies in the data folder.
func (s *Server) open() (err error) {
	if s.options.Database != "" {
		return s.openShared()
	}
	if s.store, err = OpenStore(s.options.DataDir); err != nil {
		return err
	}
	if s.keys, err = openKey(s.options.DataDir); err != nil {
		return errors.Join(err, s.store.Close())
	}
	return nil
}

// openShared opens a database that other servers use too; they all know one another's cookies.
func (s *Server) openShared() error {
	store, err := openPostgres(s.options.Database, s.log, leaseTime)
	if err != nil {
		return err
	}
	s.store = store
	fresh, err := openKey("")
	if err != nil {
		return errors.Join(err, store.Close())
	}
	if s.keys.key, err = store.sessionKey(context.Background(), fresh.key); err != nil {
		return errors.Join(err, store.Close())
	}
	return nil
}

// Handler serves without Run, for tests and for servers of others. Close it when done.
func (s *Server) Handler() http.Handler { return s.echo }

// BasePath is Options.BasePath as /a/b, or "".
func (s *Server) BasePath() string { return s.options.BasePath }

// Addr is where the server listens; nil without Options.Addr.
func (s *Server) Addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// SetProgress says how many bytes of the model have been loaded, of how many.
func (s *Server) SetProgress(done, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.total = done, total
}

// SetReady gives the loaded model; from now on questions are answered.
func (s *Server) SetReady(b Backend) {
	info := b.Info()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backend, s.model = b, info
	s.core = newCore(b, s.options.Sampling, s.fetch())
	s.done = s.total
}

// Fail says that the model cannot be loaded: Run returns err.
func (s *Server) Fail(err error) {
	if err == nil {
		panic("serve: Fail without an error")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
		close(s.failed)
	}
}

// ready gives the model, or the error that a question gets instead.
func (s *Server) ready() (Backend, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failure != nil:
		return nil, errModelFailed
	case s.backend == nil:
		return nil, errLoading
	}
	return s.backend, nil
}

// enter counts an answer in, unless the server is ending.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain.Err() != nil {
		return errDraining
	}
	s.answers++
	return nil
}

// leave counts it out.
func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers--
	close(s.finished)
	s.finished = make(chan struct{})
}

// Run serves until ctx is over, then lets running answers finish (Options.DrainTimeout at most) and refuses new ones.
// Close, called meanwhile, ends it at once. Run returns nil after such an end, else why it could not go on: the error
// given to Fail, or the listener's.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("serve: Run needs an address (Options.Addr)")
	}
	s.mu.Lock()
	s.serving = true
	s.mu.Unlock()
	server := &http.Server{
		Handler:           s.echo,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	broken := make(chan error, 1)
	go func() { broken <- server.Serve(s.listener) }()

	var failure error
	select {
	case <-ctx.Done():
		s.log.Info("the server ends; running answers may finish", "timeout", s.options.DrainTimeout)
		s.endDrain()
		s.awaitAnswers(s.options.DrainTimeout)
	case <-s.closing:
	case <-s.failed:
		s.mu.Lock()
		failure = s.failure
		s.mu.Unlock()
	case failure = <-broken:
		failure = fmt.Errorf("serve: %w", failure)
	}
	const farewell = 5 * time.Second // for answers to be written to the history and to their readers
	s.endDrain()
	s.endLife(errShutdown)
	s.awaitAnswers(farewell)
	late, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		server.Close()
	}
	return errors.Join(failure, s.free())
}

// awaitAnswers waits until no answer runs, at most for d or until Close.
func (s *Server) awaitAnswers(d time.Duration) {
	timeout := time.After(d)
	closing := s.closing
	if s.life.Err() != nil {
		closing = nil // they are ending already, and their text should reach the history
	}
	for {
		s.mu.Lock()
		n, finished := s.answers, s.finished
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-finished:
		case <-timeout:
			return
		case <-closing:
			return
		}
	}
}

// Close ends the server without waiting for answers; what they have so far is kept.
func (s *Server) Close() error {
	s.closeOnce.Do(func() { close(s.closing) })
	s.mu.Lock()
	serving := s.serving
	s.mu.Unlock()
	if serving {
		return nil // Run does the rest
	}
	s.endDrain()
	s.endLife(errShutdown)
	s.awaitAnswers(5 * time.Second)
	if s.listener != nil {
		s.listener.Close()
	}
	return s.free()
}

// free closes the history.
func (s *Server) free() error {
	s.freeOnce.Do(func() { s.freeErr = s.store.Close() })
	return s.freeErr
}
