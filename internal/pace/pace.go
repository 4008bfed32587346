// Package pace says how often positions are stored: now and then, or at once where somebody waits for them.
package pace

import (
	"context"
	"sync"
	"time"
)

// Hurried is the time between two times in a hurry.
const Hurried = 20 * time.Millisecond

// Pace is a pace that can be changed. All methods may be called concurrently; the zero value is in no hurry.
type Pace struct {
	mu    sync.Mutex
	on    bool
	begun chan struct{} // closed when a hurry begins; nil: nobody waits for one
}

// Hurry begins or ends a hurry.
func (p *Pace) Hurry(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on = on; on && p.begun != nil {
		close(p.begun)
		p.begun = nil
	}
}

// hurry returns a channel that is closed when a hurry has begun; nil: there is one.
func (p *Pace) hurry() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on {
		return nil
	}
	if p.begun == nil {
		p.begun = make(chan struct{})
	}
	return p.begun
}

// Wait waits usual, or Hurried in a hurry, also one that begins meanwhile. The error is ctx's.
func (p *Pace) Wait(ctx context.Context, usual time.Duration) error {
	if begun := p.hurry(); begun != nil {
		timer := time.NewTimer(usual)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-begun:
		}
	}
	timer := time.NewTimer(Hurried)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Each calls f every Hurried for as long as there is a hurry, and waits for the next one, until ctx ends.
func (p *Pace) Each(ctx context.Context, f func()) {
	for {
		if begun := p.hurry(); begun != nil {
			select {
			case <-begun:
			case <-ctx.Done():
				return
			}
		}
		if p.Wait(ctx, Hurried) != nil {
			return
		}
		f()
	}
}
