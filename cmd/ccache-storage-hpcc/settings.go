//go:build unix

package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/config"
)

const (
	// maxAttributes is more than there are settings.
	maxAttributes = 64
	// maxIdle bounds the time without clients; ccache's own limit is higher.
	maxIdle = 365 * 24 * time.Hour
)

// endpoint returns what of the environment is needed to serve at all.
func endpoint(getenv func(string) string) (path string, idle time.Duration, err error) {
	path = getenv("CRSH_IPC_ENDPOINT")
	if path == "" {
		return "", 0, errors.New("CRSH_IPC_ENDPOINT is not set: ccache starts this program, see -help")
	}
	text := getenv("CRSH_IDLE_TIMEOUT")
	if text == "" {
		text = "600" // ccache's default
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return "", 0, errors.New("CRSH_IDLE_TIMEOUT must be a number of seconds")
	}
	idle = maxIdle
	if n < uint64(maxIdle/time.Second) {
		idle = time.Duration(n) * time.Second
	}
	return path, idle, nil
}

// place returns where the objects are, and in whose name: CRSH_URL, and the
// attributes of ccache's remote_storage. Errors repeat no value.
func place(getenv func(string) string) (config.Tier, string, error) {
	none := func(err error) (config.Tier, string, error) { return config.Tier{}, "", err }
	at, err := tierURL(getenv("CRSH_URL"))
	if err != nil {
		return none(err)
	}
	set := map[string]string{"url": at}
	n := 0
	if text := getenv("CRSH_NUM_ATTR"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 0 || n > maxAttributes {
			return none(fmt.Errorf("CRSH_NUM_ATTR must be a number from 0 to %d", maxAttributes))
		}
	}
	for i := range n {
		given := getenv(fmt.Sprintf("CRSH_ATTR_KEY_%d", i))
		// ccache's words have hyphens.
		name := strings.ReplaceAll(given, "-", "_")
		if _, twice := set[name]; twice {
			return none(fmt.Errorf("the attribute %s is not to be set, or not twice", given))
		}
		set[name] = getenv(fmt.Sprintf("CRSH_ATTR_VALUE_%d", i))
	}
	return config.ParseTier(set)
}

// tierURL says in hpcc's words what hpcc://BUCKET and hpcc:///DIRECTORY are. The
// words themselves it takes as they are: with ccache's property helper, any
// scheme leads here.
func tierURL(s string) (string, error) {
	wrong := errors.New("the URL must be hpcc://BUCKET or hpcc:///DIRECTORY")
	u, err := url.Parse(s)
	if err != nil {
		return "", wrong // and not what the parser says, which shows it
	}
	switch {
	case u.Scheme != "hpcc":
	case u.Host == "" && u.User == nil && u.Path != "":
		u.Scheme = "file"
	case u.Host != "" && strings.Trim(u.Path, "/") == "":
		u.Scheme = "s3"
	default:
		return "", fmt.Errorf("%w; the objects' prefix is @prefix", wrong)
	}
	return u.String(), nil
}
