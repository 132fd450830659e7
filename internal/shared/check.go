package shared

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// Wrong is an object that is not believed.
type Wrong struct {
	Name   string `json:"name"`
	Reason Reason `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Removed says that it was.
	Removed bool `json:"removed"`
}

// CheckOptions say how a store is checked.
type CheckOptions struct {
	// Tenant's objects alone are looked at; "" is all tenants'.
	Tenant string
	Trust  *Trust
	// Repair removes what is wrong. What a stranger signed, or another version of hpcc
	// wrote, may be right to others; it goes with Strangers only.
	Repair, Strangers bool
	// Wrong is told of each object that is not believed, one at a time. It may be nil.
	Wrong func(Wrong)
	// Progress, if not nil, is called now and then, one at a time.
	Progress func(CheckReport)
}

// CheckReport counts what Check saw.
type CheckReport struct {
	Objects int64            `json:"objects"`
	Bytes   int64            `json:"bytes"`
	Wrong   int64            `json:"wrong"`
	Reasons map[Reason]int64 `json:"reasons"`
	Removed int64            `json:"removed"`
	// Sealed are encrypted with another key, and were not read.
	Sealed int64 `json:"sealed"`
	// Ccache are entries of ccache's, which nobody signs.
	Ccache int64 `json:"ccache"`
	// Foreign are not hpcc's.
	Foreign int64 `json:"foreign"`
}

// Check reads every object and verifies it as a reader of the cache does
// (VerifyObject). That some are wrong is no error. What went meanwhile is left out.
func Check(ctx context.Context, s store.Store, opt CheckOptions) (CheckReport, error) {
	r := CheckReport{Reasons: map[Reason]int64{}}
	var mu sync.Mutex
	count := func(change func()) {
		mu.Lock()
		defer mu.Unlock()
		change()
		if opt.Progress != nil {
			told := r
			told.Reasons = maps.Clone(r.Reasons)
			opt.Progress(told)
		}
	}
	err := each(ctx, s, opt.Tenant, func(ctx context.Context, info store.Info) error {
		switch class, _, kind := Classify(info.Name); {
		case class == ClassForeign:
			count(func() { r.Foreign++ })
			return nil
		case class == ClassSealed:
			count(func() { r.Sealed++ })
			return nil
		case class == ClassState:
			return nil
		case kind == KindCcache:
			count(func() { r.Ccache++ })
			return nil
		}
		_, err := VerifyObject(ctx, s, info.Name, opt.Trust)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		reason := reasonOf(err)
		if errors.Is(err, store.ErrCorrupt) {
			reason = ReasonDamaged
		}
		if err != nil && reason == "" {
			return err
		}
		wrong := Wrong{Name: info.Name, Reason: reason}
		if reason != "" {
			wrong.Detail = detailOf(err)
			if wrong.Removed, err = opt.repair(ctx, s, info, reason); err != nil {
				return err
			}
		}
		count(func() {
			r.Objects++
			r.Bytes += info.Size
			if reason == "" {
				return
			}
			r.Wrong++
			r.Reasons[reason]++
			if wrong.Removed {
				r.Removed++
			}
			if opt.Wrong != nil {
				opt.Wrong(wrong)
			}
		})
		return nil
	})
	return r, err
}

// detailOf is what err says besides the object's name and the reason.
func detailOf(err error) string {
	var e *RejectedError
	if errors.As(err, &e) {
		return e.Detail
	}
	return err.Error()
}

// repair removes an object that was found wrong, unless it has changed since it was
// listed.
func (opt *CheckOptions) repair(ctx context.Context, s store.Store, info store.Info, reason Reason) (bool, error) {
	if !opt.Repair || (reason == ReasonStranger || reason == ReasonVersion) && !opt.Strangers {
		return false, nil
	}
	now, err := s.Stat(ctx, info.Name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if now.Size != info.Size || now.Modified.Sub(info.Modified).Abs() >= time.Second {
		return false, nil
	}
	if err := s.Delete(ctx, info.Name); err != nil {
		return false, fmt.Errorf("removing %s: %w", info.Name, err)
	}
	return true, nil
}
