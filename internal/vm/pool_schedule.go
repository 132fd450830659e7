package vm

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// schedule does all that is due: it hands out leases, ends machines whose time is
// over, and starts new ones. It is called, under the lock, after every change,
// and by the alarm.
func (p *Pool) schedule() {
	if p.closed {
		return
	}
	now := time.Now()
	due := &alarm{}
	p.expire(now, due)
	p.hand(now)
	p.startMachines(now, due)
	for _, m := range p.members {
		if m.state == draining && m.leases == 0 {
			p.end(m, false)
		}
	}
	p.forget(now, due)
	p.setAlarm(now, due)
}

// alarm finds the earliest of many times.
type alarm struct {
	at  time.Time
	set bool
}

func (a *alarm) add(t time.Time) {
	if !a.set || t.Before(a.at) {
		a.at, a.set = t, true
	}
}

// reached tells whether t has come, and notes it if not.
func (a *alarm) reached(now, t time.Time) bool {
	if t.After(now) {
		a.add(t)
		return false
	}
	return true
}

func (p *Pool) setAlarm(now time.Time, due *alarm) {
	if !due.set {
		if p.alarm != nil {
			p.alarm.Stop()
		}
		return
	}
	if p.alarm == nil {
		p.alarm = time.AfterFunc(due.at.Sub(now), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.schedule()
		})
		return
	}
	p.alarm.Reset(due.at.Sub(now))
}

// expire drains machines that are old, and ends those that nobody uses.
func (p *Pool) expire(now time.Time, due *alarm) {
	for _, m := range p.members {
		if m.state != ready {
			continue
		}
		if due.reached(now, m.since.Add(p.opt.Lifetime)) || m.leases == 0 && len(m.session.waiters) == 0 && due.reached(now, m.idleSince.Add(p.opt.Idle)) {
			p.drain(m)
		}
	}
}

// hand gives waiters the free leases of their session's machines: on the machine
// that has the most, so that others become idle.
func (p *Pool) hand(now time.Time) {
	for _, s := range p.sessions {
		for len(s.waiters) > 0 {
			var best *member
			for _, m := range p.members {
				if m.session == s && m.state == ready && m.leases < p.slots && !m.dead() && (best == nil || m.leases > best.leases) {
					best = m
				}
			}
			if best == nil {
				break
			}
			best.leases++
			w := s.waiters[0]
			s.waiters = s.waiters[1:]
			p.leave(s.key.Tenant)
			w.result <- result{lease: &Lease{pool: p, member: best, began: now}}
		}
	}
}

// startMachines gives machines to the sessions that need one, those first whose
// tenant has the fewest, or had the last one longest ago: the age of a line says
// nothing, for who asks for much has an old one always. A session that finds no place free counts on one that is
// being vacated, or makes a machine leave; it starts when the place is free.
func (p *Pool) startMachines(now time.Time, due *alarm) {
	soon := p.count(func(m *member) bool { return m.state == ending || m.state == draining && m.leases == 0 })
	later := p.count(func(m *member) bool { return m.state == draining && m.leases > 0 })
	var need []*session
	for _, s := range p.sessions {
		if p.needs(s, now, due) {
			need = append(need, s)
		}
	}
	for len(need) > 0 {
		s := slices.MinFunc(need, func(a, b *session) int {
			return cmp.Or(
				cmp.Compare(p.ofTenant(a.key.Tenant), p.ofTenant(b.key.Tenant)),
				cmp.Compare(p.lastTurn(a.key.Tenant), p.lastTurn(b.key.Tenant)),
				cmp.Compare(p.ofSession(a), p.ofSession(b)),
				cmp.Compare(a.turn, b.turn),
				a.waiters[0].since.Compare(b.waiters[0].since),
				compareKeys(a.key, b.key))
		})
		// Each session boots one machine at a time: when that is ready the line
		// tells whether another is needed.
		need = slices.DeleteFunc(need, func(o *session) bool { return o == s })
		if len(p.members) < p.places {
			p.start(s, now)
			continue
		}
		if soon > 0 {
			soon--
			continue
		}
		m := p.victim(s, now, due)
		if later > 0 && (m == nil || rank(m) > idle) {
			later--
			continue
		}
		if m == nil {
			continue
		}
		p.stats.Evicted++
		p.log.Info("machine-evicted", "id", m.id, "tenant", m.session.key.Tenant, "leases", m.leases, "for", s.key.Tenant)
		if m.state == booting {
			p.end(m, false)
		} else {
			p.drain(m)
		}
	}
}

// needs tells whether a session wants one more machine.
func (p *Pool) needs(s *session, now time.Time, due *alarm) bool {
	switch {
	case len(s.waiters) == 0, p.count(func(m *member) bool { return m.session == s && m.state == booting }) > 0:
		return false
	case !due.reached(now, s.retryAt):
		return false
	}
	return p.ofSession(s) == 0 || due.reached(now, s.waiters[0].since.Add(growAfter))
}

// victim finds a machine that makes room for a session, or nil.
//
// One that nobody uses goes, the longest idle first, if its tenant has more than
// the session's, or as many and the session has none. Else only after a turn: two
// tenants with pauses between their jobs would boot all the time. One that is
// used, or boots, goes if its tenant has at least two more, or, after a turn, if
// the session's tenant has none. Among one tenant's, sessions count as tenants do.
func (p *Pool) victim(s *session, now time.Time, due *alarm) (best *member) {
	none := p.ofSession(s) == 0
	for _, m := range p.members {
		if !m.serves() || m.session == s {
			continue
		}
		has, others := p.ofTenant(s.key.Tenant), p.ofTenant(m.session.key.Tenant)
		if s.key.Tenant == m.session.key.Tenant {
			has, others = p.ofSession(s), p.ofSession(m.session)
		}
		var may bool
		if rank(m) == idle {
			may = has < others || none && has == others || due.reached(now, m.idleSince.Add(p.opt.Turn))
		} else {
			may = others > has+1 || has == 0 && due.reached(now, m.since.Add(p.opt.Turn))
		}
		if may && (best == nil || p.rather(m, best) < 0) {
			best = m
		}
	}
	return best
}

// rather orders machines by which goes first.
func (p *Pool) rather(a, b *member) int {
	if by := cmp.Compare(rank(a), rank(b)); by != 0 || rank(a) == idle {
		return cmp.Or(by, a.lastUse().Compare(b.lastUse()))
	}
	return cmp.Or(
		cmp.Compare(p.ofTenant(b.session.key.Tenant), p.ofTenant(a.session.key.Tenant)),
		cmp.Compare(a.leases, b.leases),
		a.lastUse().Compare(b.lastUse()))
}

// What the end of a machine costs, the least first.
const (
	idle = iota
	boots
	busy
)

func rank(m *member) int {
	switch {
	case m.state == booting:
		return boots
	case m.leases == 0:
		return idle
	}
	return busy
}

// lastUse is when somebody last had use of m.
func (m *member) lastUse() time.Time {
	if m.state == ready && m.leases == 0 {
		return m.idleSince
	}
	return m.since
}

// forget drops sessions that have nothing, once their failures are old.
func (p *Pool) forget(now time.Time, due *alarm) {
	for key, s := range p.sessions {
		if len(s.waiters) > 0 || p.count(func(m *member) bool { return m.session == s }) > 0 {
			continue
		}
		if s.failures == 0 || due.reached(now, s.retryAt.Add(maxBackoff)) {
			delete(p.sessions, key)
		}
	}
}

func (p *Pool) remove(m *member) {
	p.members = slices.DeleteFunc(p.members, func(o *member) bool { return o == m })
}

func (p *Pool) count(which func(*member) bool) (n int) {
	for _, m := range p.members {
		if which(m) {
			n++
		}
	}
	return n
}

func (p *Pool) ofTenant(tenant string) int {
	return p.count(func(m *member) bool { return m.serves() && m.session.key.Tenant == tenant })
}

func (p *Pool) ofSession(s *session) int {
	return p.count(func(m *member) bool { return m.serves() && m.session == s })
}

// lastTurn says which of the pool's starts was the tenant's last.
func (p *Pool) lastTurn(tenant string) (last uint64) {
	for key, s := range p.sessions {
		if key.Tenant == tenant {
			last = max(last, s.turn)
		}
	}
	return last
}

func compareKeys(a, b SessionKey) int {
	write := func(k SessionKey) int {
		if k.Write {
			return 1
		}
		return 0
	}
	return cmp.Or(strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Image, b.Image), cmp.Compare(write(a), write(b)))
}
