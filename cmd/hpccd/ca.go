package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/auth"
)

func (a *app) newCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make certificates and credentials for a site of its own",
		Long: `The scheduler and the workers prove themselves by TLS, and clients, workers and
operators prove themselves to the scheduler by credentials. A site that has a CA
takes its certificates; one that has none makes a small CA here: a directory
with ca.crt, which every client and worker gets, and ca.key, which stays where
it is and is read by "hpcc ca issue" alone.

Clients know workers by the pin of their key, which the scheduler tells them; a
worker's certificate may come from the same CA, or from anybody.`,
		Example: `  hpcc ca init --dir ca
  hpcc ca issue --dir ca --name scheduler --host build.example.com --out scheduler
  hpcc ca credential`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{withHint(fmt.Errorf("unknown command %q", args[0]), "see hpcc ca --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newCAInit(), a.newCAIssue(), a.newCACredential())
	return cmd
}

// needFlags refuses a command without the flags that it cannot do without.
func needFlags(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := noArgs(cmd, args); err != nil {
			return err
		}
		for _, name := range names {
			if !cmd.Flags().Changed(name) {
				return usage{withHint(fmt.Errorf("%s: --%s is missing", cmd.CommandPath(), name), "see %s --help", cmd.CommandPath())}
			}
		}
		return nil
	}
}

func (a *app) newCAInit() *cobra.Command {
	var dir, name string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "Make a CA",
		Long: `Init makes a key and a certificate that is good for ten years. It replaces
nothing. Whoever can read ca.key can be any server of the site: keep it off the
machines that serve.`,
		Example: `  hpcc ca init --dir ca --name 'Acme build CA'`,
		Args:    needFlags("dir"),
		RunE: func(*cobra.Command, []string) error {
			ca, err := auth.InitCA(dir, name)
			if errors.Is(err, fs.ErrExist) {
				return withHint(err, "there is a CA in %s already; another needs another directory", dir)
			}
			if err != nil {
				return err
			}
			v := struct {
				Certificate string    `json:"certificate"`
				Key         string    `json:"key"`
				Expires     time.Time `json:"expires"`
			}{filepath.Join(dir, auth.CACertFile), filepath.Join(dir, auth.CAKeyFile), ca.Expires().UTC()}
			if asJSON {
				return a.printJSON(v)
			}
			t := a.newTable()
			t.row("certificate", v.Certificate)
			t.row("key", v.Key)
			t.row("expires", v.Expires.Format(time.RFC3339))
			return t.flush()
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the CA; made if it is not there")
	cmd.Flags().StringVar(&name, "name", "hpcc CA", "the CA's name, for people who look at a certificate")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) newCAIssue() *cobra.Command {
	var dir, name, out string
	var hosts []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "issue --dir DIR --name NAME --host HOST…",
		Short: "Make a server's key and certificate",
		Long: `Issue makes NAME.key and NAME.crt for a server that is reached as each HOST: a DNS
name (also *.example.com) or an IP address. The certificate is good for a year.
It replaces nothing: to renew, issue to another directory and move both files
over the old ones. Scheduler and workers take them up without a restart.`,
		Example: `  hpcc ca issue --dir ca --name scheduler --host build.example.com --host 192.0.2.10 --out scheduler
  hpcc ca issue --dir ca --name w1 --host w1.build.example.com --out w1`,
		Args: needFlags("dir", "name", "host"),
		RunE: func(*cobra.Command, []string) error {
			ca, err := auth.OpenCA(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return withHint(err, "make a CA first: hpcc ca init --dir %s", shellQuote(dir))
			}
			if err != nil {
				return err
			}
			i, err := ca.Issue(name, hosts, out)
			if errors.Is(err, fs.ErrExist) {
				return withHint(err, "name another directory by --out, and move the files when the new ones are wanted")
			}
			if err != nil {
				return err
			}
			v := struct {
				Certificate string    `json:"certificate"`
				Key         string    `json:"key"`
				Hosts       []string  `json:"hosts"`
				Pin         string    `json:"pin"` // sha256:…
				Expires     time.Time `json:"expires"`
			}{i.CertFile, i.KeyFile, i.Hosts, i.Pin.String(), i.Expires.UTC()}
			if asJSON {
				return a.printJSON(v)
			}
			t := a.newTable()
			t.row("certificate", v.Certificate)
			t.row("key", v.Key)
			t.row("hosts", strings.Join(v.Hosts, " "))
			t.row("pin", v.Pin)
			t.row("expires", v.Expires.Format(time.RFC3339))
			return t.flush()
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the CA")
	cmd.Flags().StringVar(&name, "name", "", "the server's name: of a to z, 0 to 9 and hyphen")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "DNS name or IP address that it is reached as; repeatable")
	cmd.Flags().StringVar(&out, "out", ".", "directory for the files; made if it is not there")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (a *app) newCACredential() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "credential",
		Short: "Make a credential for a client, a worker or an operator",
		Long: `Credential prints a new random credential, for its holder, and its SHA-256, for
the scheduler's settings. It is kept nowhere: whoever loses one gets another.`,
		Example: `  hpcc ca credential
  (umask 077 && hpcc ca credential --json | jq -r .credential > w1.credential)`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			credential, hash := auth.NewCredential()
			if asJSON {
				return a.printJSON(struct {
					Credential string `json:"credential"`
					SHA256     string `json:"sha256"`
				}{credential, hash.String()})
			}
			t := a.newTable()
			t.row("credential", credential)
			t.row("sha256", hash.String())
			if err := t.flush(); err != nil {
				return err
			}
			a.note("the credential is for its holder alone, and is shown this once")
			a.note(`scheduler.toml of the scheduler gets: sha256 = "%s"`, hash)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
