package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

// newCache is the parent of what concerns shared caches.
func (a *app) newCache() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Manage caches that several machines share",
		Long: `Cache is about the tiers of the settings: cache.tiers of clients, store.tiers of
workers. The cache on this machine's own disk has other commands: stats, clean,
fsck, inspect.`,
		Example: `  hpcc cache keygen ~/.config/hpcc/signing-key`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{withHint(fmt.Errorf("unknown command %q", args[0]), "see hpcc cache --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newCacheKeygen())
	return cmd
}

func (a *app) newCacheKeygen() *cobra.Command {
	var name, role string
	var encryption, asJSON bool
	cmd := &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make the key that signs results, or the one that encrypts them",
		Long: `Keygen writes a new signing key to FILE, which only its owner can read, and prints
the line that those who shall believe its results add to their file of trusted
keys (cache.trusted_keys_file of clients, store.trusted_keys_file of workers).
FILE is for cache.signing_key_file, or store.signing_key_file of a worker.

With --encryption it writes a key by which clients encrypt what they send to a
tier (encryption_key_file), for all who share that tier. Whoever loses it loses
what was encrypted.

It replaces nothing.`,
		Example: `  hpcc cache keygen ~/.config/hpcc/signing-key >> trusted-keys
  hpcc cache keygen --role worker --name w1 /etc/hpcc/w1.signing-key
  hpcc cache keygen --encryption /etc/hpcc/tier.key`,
		Args: oneArg("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if encryption {
				if err := store.CreateKey(file); err != nil {
					return keygenError(err, file)
				}
				a.note("whoever shares the tier needs %s", file)
				return nil
			}
			line, err := shared.GenerateKey(file, shared.Role(role), name)
			if err != nil {
				return keygenError(err, file)
			}
			if asJSON {
				return a.printJSON(struct {
					File string `json:"file"`
					Line string `json:"line"` // for files of trusted keys
				}{file, line})
			}
			if _, err := fmt.Fprintln(a.stdout, line); err != nil {
				return err
			}
			a.note("the line above is for the files of trusted keys of those who shall believe what %s signs", name)
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", ownName(), "whose key it is, one word")
	cmd.Flags().StringVar(&role, "role", string(shared.RoleClient), "client or worker")
	cmd.Flags().BoolVar(&encryption, "encryption", false, "make a key that encrypts")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func keygenError(err error, file string) error {
	if errors.Is(err, fs.ErrExist) {
		return withHint(err, "there is a file already: name another one, or remove %s if nobody needs it", file)
	}
	return err
}

// ownName is what others call this machine, or nearly so.
func ownName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "client"
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	return host
}
