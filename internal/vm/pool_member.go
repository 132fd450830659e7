package vm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// state is a member's; each goes on to a later one only.
type state int

const (
	booting  state = iota
	ready          // takes leases
	draining       // takes no more, and ends with its last
	ending         // is being stopped or killed
)

// member is a machine with a place in the pool, from before it boots until
// nothing of it is left. Fields are under the pool's lock, but for those that do
// not change.
type member struct {
	session *session
	id      string
	cancel  context.CancelFunc // of the boot

	state     state
	machine   Machine   // set with ready, and not changed
	since     time.Time // it boots, or has been ready
	idleSince time.Time // without lease
	leases    int
	served    bool // a job has ended well on it

	kill bool          // rather than stop
	stop chan struct{} // closed with ending
}

// serves tells whether jobs run on m, or will.
func (m *member) serves() bool { return m.state <= ready }

// dead tells whether the machine has ended, which the pool may not know yet.
func (m *member) dead() bool {
	if m.machine == nil {
		return false
	}
	select {
	case <-m.machine.Done():
		return true
	default:
		return false
	}
}

// start gives a session a machine, in a place that is free.
func (p *Pool) start(s *session, now time.Time) {
	ctx, cancel := context.WithTimeout(p.ctx, p.opt.BootTimeout)
	m := &member{session: s, id: fmt.Sprintf("s-%016x", rand.Uint64()), cancel: cancel, since: now, stop: make(chan struct{})}
	p.turns++
	s.turn = p.turns
	p.members = append(p.members, m)
	p.lives.Go(func() { p.live(ctx, m) })
}

// end begins a member's end, if it has not begun.
func (p *Pool) end(m *member, kill bool) {
	if m.state == ending {
		return
	}
	m.state, m.kill = ending, kill
	m.cancel()
	close(m.stop)
}

// drain lets no more jobs onto a machine; schedule ends it with its last.
func (p *Pool) drain(m *member) {
	if m.state == ready {
		m.state = draining
	}
}

// live is a member's life.
func (p *Pool) live(ctx context.Context, m *member) {
	defer m.cancel()
	machine, release, err := p.boot(ctx, m)
	if err != nil {
		p.notStarted(m, err)
		return
	}
	p.mu.Lock()
	p.stats.Boots++
	m.machine = machine
	if m.state == booting { // and was not told to end meanwhile
		now := time.Now()
		m.state, m.since, m.idleSince = ready, now, now
		m.session.err = nil
		p.schedule()
	}
	p.mu.Unlock()

	select {
	case <-machine.Done():
	case <-m.stop:
	}
	p.mu.Lock()
	byItself := m.state != ending
	if byItself {
		p.stats.Crashes++
		p.unserved(m)
		p.end(m, true)
		p.log.Warn("machine-crashed", "id", m.id, "tenant", m.session.key.Tenant, "image", m.session.key.Image, "leases", m.leases, "err", machine.Err())
		// The next job need not wait for the rest of this one's end.
		p.schedule()
	}
	kill := m.kill
	p.mu.Unlock()
	var left error
	if kill {
		left = machine.Kill()
	} else {
		ctx, cancel := context.WithTimeout(p.patient, stopPatience)
		left = machine.Stop(ctx)
		cancel()
	}
	<-machine.Done()
	if release != nil {
		release()
	}
	p.gone(m, left)
}

// boot makes the machine. After an error nothing is left.
func (p *Pool) boot(ctx context.Context, m *member) (Machine, func(), error) {
	spec, release, err := p.opt.Spec(ctx, m.session.key)
	if err != nil {
		return nil, nil, err
	}
	if spec.ID == "" {
		spec.ID = m.id
	}
	spec.Tenant, spec.MemoryMiB, spec.VCPUs = m.session.key.Tenant, p.opt.MachineMemoryMiB, p.opt.MachineVCPUs
	machine, err := p.opt.Runtime.Start(ctx, spec)
	if err != nil {
		if release != nil {
			release()
		}
		return nil, nil, err
	}
	return machine, release, nil
}

// notStarted takes note of a boot that failed, or was given up for another.
func (p *Pool) notStarted(m *member, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := m.session; m.state != ending {
		p.stats.BootFailures++
		wait := s.failed()
		s.err = err
		p.log.Warn("machine-not-started", "id", m.id, "tenant", s.key.Tenant, "image", s.key.Image, "failures", s.failures, "err", err)
		// Where others serve the session its line has something to wait for.
		if p.count(func(o *member) bool { return o != m && o.session == s && o.serves() }) == 0 {
			p.fail(s, &StartError{s.key, err, wait})
		}
	}
	p.remove(m)
	p.schedule()
}

// unserved takes note of a machine that ended badly. One on which no job has
// ended well may do so again at once, as often as it is started.
func (p *Pool) unserved(m *member) {
	if !m.served {
		m.session.failed()
	}
}

// failed counts a failure, and returns how long not to try again.
func (s *session) failed() time.Duration {
	s.failures++
	var wait time.Duration
	if s.failures > 1 {
		wait = min(firstBackoff<<min(s.failures-2, 10), maxBackoff)
	}
	s.retryAt = time.Now().Add(wait)
	return wait
}

// gone frees a member's place.
func (p *Pool) gone(m *member, left error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if left != nil && !errors.Is(left, ErrCrashed) {
		p.left = append(p.left[max(0, len(p.left)-maxLeft):], fmt.Errorf("machine %s: %w", m.id, left))
		p.log.Error("machine-remains", "id", m.id, "tenant", m.session.key.Tenant, "err", left)
	}
	p.remove(m)
	p.schedule()
}

// maxLeft is how many errors of machines' ends are kept for Close.
const maxLeft = 15
