package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

// maxObjectsShown is how many objects people are shown if they say nothing else.
const maxObjectsShown = 1000

// listedObject is one object of hpcc cache ls.
type listedObject struct {
	Name     string       `json:"name"`
	Class    shared.Class `json:"class"`
	Tenant   string       `json:"tenant,omitempty"`
	Kind     shared.Kind  `json:"kind,omitempty"`
	Bytes    int64        `json:"bytes"`
	Modified time.Time    `json:"modified"`
}

// what is the object's kind for people.
func (o *listedObject) what() string {
	switch o.Class {
	case shared.ClassObject:
		return string(o.Kind)
	case shared.ClassSealed:
		return string(o.Kind) + " (encrypted)"
	}
	return string(o.Class)
}

var listedKinds = []string{"manifest", "result", "blob", "ccache", "foreign"}

func (a *app) newCacheLs() *cobra.Command {
	var (
		f      cacheFlags
		kind   string
		limit  int
		oldest bool
	)
	cmd := &cobra.Command{
		Use:   "ls TIER",
		Short: "List the objects of a shared cache",
		Long: `Ls lists objects: kind, size, when they were last put or used, and name. Kinds are
manifest, result, blob, ccache, and foreign for what is not hpcc's. When piped, sizes are
in bytes and times are written out.`,
		Example: `  hpcc cache ls regional
  hpcc cache ls regional --kind result --oldest --limit 20
  hpcc cache ls s3://bucket/cache --json | jq 'map(.bytes) | add'`,
		Args:              oneArg("tier"),
		ValidArgsFunction: a.completeTiers(&f, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind != "" && !slices.Contains(listedKinds, kind) {
				return usage{fmt.Errorf("--kind is %q: must be %s", kind, strings.Join(listedKinds, ", "))}
			}
			if limit < 0 {
				return usage{errors.New("--limit must not be negative")}
			}
			if !cmd.Flags().Changed("limit") && a.terminal && !f.asJSON {
				limit = maxObjectsShown
			}
			c, err := a.caches(&f)
			if err != nil {
				return err
			}
			return atPlace(cmd, &f, c, args[0], how{}, func(ctx context.Context, s *place) error {
				list, more, err := listObjects(ctx, s, c.tenant, kind, limit, oldest)
				if err != nil {
					return storeError(s.name, err)
				}
				if f.asJSON {
					return a.printJSON(list)
				}
				if err := a.printObjects(list); err != nil {
					return err
				}
				if more {
					a.note("there are more than %d; --limit 0 shows all", limit)
				}
				return nil
			})
		},
	}
	f.registerAll(cmd)
	cmd.Flags().StringVar(&kind, "kind", "", "manifest, result, blob, ccache or foreign")
	cmd.Flags().IntVar(&limit, "limit", 0, "show at most so many; 0 for all (default 1000 on a terminal)")
	cmd.Flags().BoolVar(&oldest, "oldest", false, "those first that were not used for longest, which eviction takes first")
	_ = cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(listedKinds, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// listObjects lists at most limit objects of a kind; more says that there are others.
func listObjects(ctx context.Context, s store.Store, tenant, kind string, limit int, oldest bool) (list []listedObject, more bool, err error) {
	prefix := ""
	if tenant != "" {
		prefix = tenant + "/"
	}
	list = []listedObject{} // JSON has an array for none
	enough := errors.New("enough")
	err = s.List(ctx, prefix, func(i store.Info) error {
		class, of, k := shared.Classify(i.Name)
		if kind != "" && kind != string(k) && (kind != "foreign" || class != shared.ClassForeign) {
			return nil
		}
		if !oldest && limit > 0 && len(list) == limit {
			more = true
			return enough
		}
		list = append(list, listedObject{i.Name, class, of, k, i.Size, i.Modified})
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil, false, err
	}
	if oldest {
		slices.SortStableFunc(list, func(x, y listedObject) int { return x.Modified.Compare(y.Modified) })
		if limit > 0 && len(list) > limit {
			list, more = list[:limit], true
		}
	}
	return list, more, nil
}

func (a *app) printObjects(list []listedObject) error {
	t := a.newTable("KIND", "SIZE", "USED", "NAME")
	for _, o := range list {
		t.row(o.what(), a.size(o.Bytes), a.when(o.Modified), o.Name)
	}
	return t.flush()
}

// when writes a time, for people as an age.
func (a *app) when(t time.Time) string {
	if !a.terminal {
		return t.UTC().Format(time.RFC3339)
	}
	return ago(time.Since(t))
}

// cacheStat is what hpcc cache stat prints.
type cacheStat struct {
	Where string `json:"where"`
	shared.Measurement
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	MaxSize int64 `json:"max_size,omitempty"`
}

func (a *app) newCacheStat() *cobra.Command {
	var f cacheFlags
	cmd := &cobra.Command{
		Use:   "stat TIER",
		Short: "Show how much a shared cache holds",
		Long: `Stat lists the tier once and adds up what each tenant has of each kind. "estimate"
is what clients believe the size to be: a tenth above max_size, it makes one of them
evict.`,
		Example: `  hpcc cache stat regional
  hpcc cache stat --role worker central --all-tenants --json`,
		Args:              oneArg("tier"),
		ValidArgsFunction: a.completeTiers(&f, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.caches(&f)
			if err != nil {
				return err
			}
			return atPlace(cmd, &f, c, args[0], how{}, func(ctx context.Context, s *place) error {
				p := a.newProgress("listed")
				m, err := shared.Measure(ctx, s, c.tenant, p.objects)
				p.end()
				if err != nil {
					return storeError(s.name, err)
				}
				x := cacheStat{Where: s.String(), Measurement: m, MaxSize: s.tier.MaxSize}
				for _, t := range m.Totals {
					x.Objects += t.Objects
					x.Bytes += t.Bytes
				}
				if f.asJSON {
					return a.printJSON(x)
				}
				return a.printStat(&x)
			})
		},
	}
	f.registerAll(cmd)
	return cmd
}

func (a *app) printStat(x *cacheStat) error {
	t := a.newTable("TENANT", "KIND", "OBJECTS", "SIZE", "OLDEST", "NEWEST")
	for _, k := range x.Totals {
		what := string(k.Kind)
		if k.Sealed {
			what += " (encrypted)"
		}
		t.row(k.Tenant, what, strconv.FormatInt(k.Objects, 10), a.size(k.Bytes), a.when(k.Oldest), a.when(k.Newest))
	}
	t.row("", "total", strconv.FormatInt(x.Objects, 10), a.size(x.Bytes))
	for _, e := range x.Estimates {
		listed := ""
		if !e.Listed.IsZero() {
			listed = "listed " + a.when(e.Listed)
		}
		t.row(e.Tenant, "estimate", "", a.size(e.Bytes), listed)
	}
	if x.MaxSize > 0 {
		t.row("", "max_size", "", a.size(x.MaxSize))
	}
	if x.Foreign > 0 {
		t.row("", "foreign", strconv.FormatInt(x.Foreign, 10), a.size(x.ForeignBytes))
	}
	return t.flush()
}
