package hosts

import (
	"fmt"
	"strconv"

	"chulengo/kernels"
)

// Local is what one process has of the model's GPUs.
type Local interface {
	kernels.Viewer
	kernels.ExpertCounter
	Memory() (free, total int64, err error) // of the GPU that has least

	// Announce has f called in every Step, when the batch was found to be good and before anything waits for other processes. An
	// error of f is the step's.
	Announce(f func() error)
	// Meet has the GPUs of all processes meet, by a key that NewKey of one of them has made.
	Meet(key []byte) error
	NewKey() ([]byte, error)
	// Abort gives up what waits for other processes.
	Abort(why error)
	// Columns are those of a tap's Buf that this process captures; it is called after the step.
	Columns(t kernels.Tap) (from, to int)
}

// Device is the model's GPUs in all processes, as the leader sees them.
type Device struct {
	Local
	leader      *Leader
	free, total int64
	ids         int // of memory and pictures
}

var (
	_ kernels.Viewer        = (*Device)(nil)
	_ kernels.ExpertCounter = (*Device)(nil)
)

// Device joins the leader's GPUs with those of the followers, which it waits for.
func (l *Leader) Device(own Local) (*Device, error) {
	d := &Device{Local: own, leader: l}
	l.OnLost(own.Abort)
	var err error
	if d.free, d.total, err = own.Memory(); err != nil {
		return nil, err
	}
	ready, err := l.hear()
	if err != nil {
		return nil, err
	}
	for _, m := range ready {
		if m.Free < d.free {
			d.free, d.total = m.Free, m.Total
		}
	}
	key, err := own.NewKey()
	if err != nil {
		return nil, err
	}
	if err := l.tell(&message{Kind: join, Key: key}); err != nil {
		return nil, err
	}
	if err := meet(own, key, l.lost, &l.why); err != nil {
		return nil, err
	}
	_, err = l.hear()
	return d, err
}

// meet is own.Meet, which may not come back where another process is gone: then the error is why, and this process must end.
func meet(own Local, key []byte, gone <-chan struct{}, why *error) error {
	met := make(chan error, 1)
	go func() { met <- own.Meet(key) }()
	select {
	case err := <-met:
		return err
	case <-gone:
		return *why
	}
}

// Name implements kernels.Device.
func (d *Device) Name() string {
	return d.Local.Name() + ", as many in " + strconv.Itoa(d.leader.hello.Processes-1) + " other processes"
}

// Ranks is how many GPUs share the model.
func (d *Device) Ranks() int { return d.leader.hello.Processes * d.leader.hello.GPUs }

// Memory is the free and the whole memory of the GPU that had least when the processes met, in bytes.
func (d *Device) Memory() (free, total int64, err error) { return d.free, d.total, d.leader.Lost() }

// Close implements kernels.Device.
func (d *Device) Close() error {
	d.leader.Close()
	return d.Local.Close()
}

// Step implements kernels.Device.
func (d *Device) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	done := make(chan kernels.Result, 1)
	r, told := kernels.Result{Err: d.leader.Lost()}, false
	if r.Err == nil {
		own := *b
		m, err := d.layOut(b, &own)
		if r.Err = err; err == nil {
			d.Announce(func() error { told = true; return d.leader.tell(m) })
			r = <-d.Local.Step(&own, forward)
		}
	}
	if told {
		answers, err := d.leader.hear()
		if err == nil && r.Err != nil {
			err = d.leader.Lost()
		}
		if err != nil { // it comes before what the GPUs here say about it
			r = kernels.Result{Err: err}
		} else if r.Err == nil {
			putTogether(b, answers)
		}
	}
	done <- r
	return done
}

// layOut makes of a batch what goes to the followers, and what the local device gets.
func (d *Device) layOut(b, own *kernels.Batch) (*message, error) {
	memory, ok := b.KV.(*kv)
	if !ok || memory.of != d {
		return nil, fmt.Errorf("hosts: batch: want key/value memory of this device, got %T", b.KV)
	}
	own.KV = memory.KV
	sent := *b
	m := &message{Kind: step, ID: memory.id, Batch: &sent}
	sent.KV, sent.Pictures, sent.Want, sent.Taps = nil, nil, nil, nil
	own.Pictures = nil
	for _, p := range b.Pictures {
		known, ok := p.Picture.(*picture)
		if !ok || known.of != d {
			return nil, fmt.Errorf("hosts: batch: want pictures of this device, got %T", p.Picture)
		}
		m.Pictures = append(m.Pictures, known.id)
		p.Picture = nil
		sent.Pictures = append(sent.Pictures, p)
		p.Picture = known.Picture
		own.Pictures = append(own.Pictures, p)
	}
	for _, w := range b.Want {
		sent.Want = append(sent.Want, kernels.Want{Row: w.Row, Score: -1})
	}
	for _, t := range b.Taps {
		m.Looks = append(m.Looks, len(t.Buf))
		if t.Op == kernels.Capture {
			t.Buf = nil
		}
		sent.Taps = append(sent.Taps, t)
	}
	return m, nil
}

// putTogether fills in what other processes captured.
func putTogether(b *kernels.Batch, answers []*message) {
	for _, m := range answers {
		for i, p := range m.Parts {
			if i >= len(b.Taps) || p.To <= p.From || len(b.Taps[i].Rows) == 0 {
				continue
			}
			t := &b.Taps[i]
			width, part := len(t.Buf)/len(t.Rows), p.To-p.From
			for row := range t.Rows {
				if p.To <= width && (row+1)*part <= len(p.Buf) {
					copy(t.Buf[row*width+p.From:][:part], p.Buf[row*part:])
				}
			}
		}
	}
}

// Encode implements kernels.Viewer: every process encodes the picture for itself.
func (d *Device) Encode(p *kernels.Pixels, forward func()) (kernels.Picture, error) {
	d.ids++
	whole := *p
	whole.InPieces = false // every piece would be a message
	sent := whole
	sent.Taps = nil
	for _, t := range p.Taps {
		if t.Op != kernels.Capture { // what looks changes nothing
			sent.Taps = append(sent.Taps, t)
		}
	}
	if err := d.leader.tell(&message{Kind: encode, ID: d.ids, Pixels: &sent}); err != nil {
		return nil, err
	}
	id := d.ids
	own, err := d.Local.Encode(&whole, forward)
	_, other := d.leader.hear()
	if err == nil {
		err = other
	}
	if err != nil {
		if own != nil {
			own.Release()
		}
		return nil, err
	}
	return &picture{own, d, id}, nil
}

// picture is one that every process has.
type picture struct {
	kernels.Picture
	of *Device
	id int
}

// Release implements kernels.Picture. A process that is lost has nothing to give back.
func (p *picture) Release() {
	p.of.leader.ask(&message{Kind: release, ID: p.id})
	p.Picture.Release()
}

// kv is key/value memory of which every process has a part.
type kv struct {
	kernels.KV // this one's
	of         *Device
	id         int
	spec       kernels.KVSpec
}

// NewKV implements kernels.Device.
func (d *Device) NewKV(s kernels.KVSpec) (kernels.KV, error) {
	d.ids++
	if _, err := d.leader.ask(&message{Kind: newKV, ID: d.ids, KV: &s}); err != nil {
		return nil, err
	}
	own, err := d.Local.NewKV(s)
	if err != nil {
		return nil, err
	}
	return &kv{own, d, d.ids, s}, nil
}

// Copy implements kernels.KV.
func (m *kv) Copy(g int, dst, src kernels.Page) error {
	if _, err := m.of.leader.ask(&message{Kind: copyKV, ID: m.id, Group: g, To: dst, At: src}); err != nil {
		return err
	}
	return m.KV.Copy(g, dst, src)
}

// parts cuts a page into what each process has of it, one behind the other. One key/value head alone is everybody's.
func (m *kv) parts(g int, page []byte) (parts [][]byte, err error) {
	if g < 0 || g >= kernels.Groups || len(page) != m.spec.PageBytes(g) {
		return nil, fmt.Errorf("hosts: keys and values: want a buffer of a page's size, got %d bytes for group %d", len(page), g)
	}
	h := m.of.leader.hello
	for process := range h.Processes {
		bytes := 0
		for gpu := range h.GPUs {
			heads, err := kernels.CutHeads(m.spec.KVHeads, m.spec.HeadDim, h.Processes*h.GPUs, process*h.GPUs+gpu)
			if err != nil {
				return nil, err
			}
			own := m.spec
			own.KVHeads = heads.Len() / m.spec.HeadDim
			bytes += own.PageBytes(g)
		}
		if m.spec.KVHeads == 1 {
			parts = append(parts, page)
			continue
		}
		parts = append(parts, page[:bytes:bytes])
		page = page[bytes:]
	}
	return parts, nil
}

// Save implements kernels.KV: the processes' parts, one behind the other.
func (m *kv) Save(g int, p kernels.Page, to []byte) error {
	parts, err := m.parts(g, to)
	if err != nil {
		return err
	}
	for i, f := range m.of.leader.followers {
		if err := m.of.leader.tellOne(f, &message{Kind: saveKV, ID: m.id, Group: g, At: p, Size: len(parts[i+1])}); err != nil {
			return err
		}
	}
	answers, err := m.of.leader.hear()
	if err != nil {
		return err
	}
	for i, a := range answers {
		if len(a.Data) != len(parts[i+1]) {
			return fmt.Errorf("hosts: keys and values: want %d bytes of process %d, got %d", len(parts[i+1]), i+1, len(a.Data))
		}
		copy(parts[i+1], a.Data)
	}
	return m.KV.Save(g, p, parts[0])
}

// Load implements kernels.KV.
func (m *kv) Load(g int, p kernels.Page, data []byte) error {
	parts, err := m.parts(g, data)
	if err != nil {
		return err
	}
	for i, f := range m.of.leader.followers {
		if err := m.of.leader.tellOne(f, &message{Kind: loadKV, ID: m.id, Group: g, At: p, Data: parts[i+1]}); err != nil {
			return err
		}
	}
	if _, err := m.of.leader.hear(); err != nil {
		return err
	}
	return m.KV.Load(g, p, parts[0])
}

// Close implements kernels.KV.
func (m *kv) Close() error {
	m.of.leader.ask(&message{Kind: closeKV, ID: m.id}) // a process that is lost has closed it
	return m.KV.Close()
}
