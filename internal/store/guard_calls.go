package store

import "context"

func (g *Guarded) Get(ctx context.Context, name string, limit int64) (o Object, err error) {
	err = g.call(ctx, reading, g.opt.Read, func(ctx context.Context) (err error) {
		o, err = g.store.Get(ctx, name, limit)
		return err
	})
	if err == nil {
		g.moved(len(o.Body), 0)
	}
	return o, err
}

func (g *Guarded) Stat(ctx context.Context, name string) (i Info, err error) {
	err = g.call(ctx, reading, g.opt.Read, func(ctx context.Context) (err error) {
		i, err = g.store.Stat(ctx, name)
		return err
	})
	return i, err
}

func (g *Guarded) Put(ctx context.Context, name string, body []byte, when Condition) (v Version, err error) {
	// Of what was sent nobody tells; each MiB has its second at once.
	limit := g.opt.Write + worth(len(body))
	err = g.call(ctx, writing, limit, func(ctx context.Context) (err error) {
		v, err = g.store.Put(ctx, name, body, when)
		return err
	})
	if err == nil {
		g.moved(0, len(body))
	}
	return v, err
}

func (g *Guarded) Touch(ctx context.Context, name string) error {
	return g.call(ctx, writing, g.opt.Write, func(ctx context.Context) error { return g.store.Touch(ctx, name) })
}

func (g *Guarded) Delete(ctx context.Context, name string) error {
	return g.call(ctx, removing, g.opt.Write, func(ctx context.Context) error { return g.store.Delete(ctx, name) })
}

// DeleteMany removes objects in calls of at most a thousand, as many as S3 takes.
func (g *Guarded) DeleteMany(ctx context.Context, names []string) error {
	for len(names) > 0 {
		some := names[:min(len(names), 1000)]
		names = names[len(some):]
		// A thousand are a lot of work: a listing's time.
		err := g.call(ctx, removing, g.opt.List, func(ctx context.Context) error { return DeleteMany(ctx, g.store, some) })
		if err != nil {
			return err
		}
	}
	return nil
}

// List gives the store its time anew for each object.
func (g *Guarded) List(ctx context.Context, prefix string, visit func(Info) error) error {
	var stopped error
	err := g.watch(ctx, listing, g.opt.List, func(ctx context.Context, c *clock) error {
		err := g.store.List(ctx, prefix, func(i Info) error {
			c.stop()
			defer c.again()
			stopped = visit(i)
			return stopped
		})
		if stopped != nil {
			return nil //nolint:nilerr // its error is no word of the store
		}
		return err
	})
	if stopped != nil {
		return stopped
	}
	return err
}

func (g *Guarded) moved(in, out int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count.BytesRead += int64(in)
	g.count.BytesWritten += int64(out)
}
