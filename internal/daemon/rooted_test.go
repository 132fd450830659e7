package daemon

import "testing"

func TestMarksPlace(t *testing.T) {
	for text, want := range map[string]bool{
		"#line 1 \"gen.y\"\n":                     false,
		"# 1 \"a.c\"\n# 1 \"<built-in>\" 1 3\n":   false,
		"#line 7\nint a;\n":                       false,
		"  # line 7 \"sub/x.y\"\r\n":              false,
		"#line 1 \"/w/gen.y\"\n":                  true,
		"int a;\n# 3 \"/w/a.c\" 2\n":              true,
		"%:line 1 \"/w/gen.y\"\n":                 true,
		"#line LINE FILE\n":                       true,
		"#line 1 \"\\057w/gen.y\"\n":              true, // an escape
		"#li\\\nne 1 \"/w/gen.y\"\n":              true,
		"#line 1 /**/ \"/w/gen.y\"\n":             true,
		"#line 1 \"a.y\"\n#line 2 \"/w/gen.y\"\n": true,
	} {
		if got := marksPlace([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
