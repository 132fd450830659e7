package daemon

import (
	"context"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// namesTime says in which file a time macro stands.
func namesTime(files []compiler.File, macro string, has func(*compiler.FileScan) bool) string {
	for _, f := range files {
		if has(f.Scan) {
			return macro + " in " + f.Path
		}
	}
	return macro + " pasted from pieces"
}

// checkDate refuses units whose text holds the time of the compile. Many only
// mention the macros in branches not taken: two runs of the preprocessor with
// two values for them tell, and text that is equal in both holds none.
func (j *job) checkDate(ctx context.Context, files []compiler.File, date, clock, timestamp bool) error {
	// gcc takes date and time from it (GCC manual, "Environment Variables
	// Affecting GCC"), and it is part of the key. __TIMESTAMP__ it does not.
	if j.prep.inv.Family == compiler.GCC && (len(j.prep.setEnv) > 0 || getenv(j.req.GetEnv(), "SOURCE_DATE_EPOCH") != "") {
		date, clock = false, false
	}
	var macros []string
	where := ""
	for _, m := range []struct {
		name string
		used bool
		in   func(*compiler.FileScan) bool
	}{
		{"__TIMESTAMP__", timestamp, func(s *compiler.FileScan) bool { return s.Timestamp }},
		{"__TIME__", clock, func(s *compiler.FileScan) bool { return s.Time }},
		{"__DATE__", date, func(s *compiler.FileScan) bool { return s.Date }},
	} {
		if m.used {
			macros = append(macros, m.name)
			where = namesTime(files, m.name, m.in)
		}
	}
	if len(macros) == 0 {
		return nil
	}
	var texts [2]digest.Digest
	for i, value := range []string{"one", "two"} {
		text, err := j.temp("i")
		if err != nil {
			return err
		}
		if err = j.quiet(ctx, j.prep.inv.PinnedArgs(value, macros...), text); err == nil {
			texts[i], _, err = j.e.files.digest(&file{path: text})
		}
		removeAll(text)
		if err != nil {
			// As with -Werror and the user's own definition.
			return refuse(reasonDateTime, "%s", where)
		}
	}
	if texts[0] != texts[1] {
		return refuse(reasonDateTime, "%s", where)
	}
	return nil
}
