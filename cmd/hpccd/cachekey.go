package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/kms"
)

func (a *app) newCacheKeygen() *cobra.Command {
	var name, role, kmsKey string
	var aws kms.Options
	var encryption, public, asJSON bool
	cmd := &cobra.Command{
		Use:     "keygen FILE",
		Aliases: []string{"key"},
		Short:   "Make the key that signs results, or the one that encrypts them",
		Long: `Keygen writes a new signing key to FILE, which only its owner can read, and prints
the line that those who shall believe its results add to their file of trusted
keys (cache.trusted_keys_file of clients, store.trusted_keys_file of workers).
FILE is for cache.signing_key_file, or store.signing_key_file of a worker. --public
prints the line of a key that is there.

With --encryption it writes a key by which clients encrypt what they send to a
tier (encryption_key_file), for all who share that tier. Whoever loses it loses
what was encrypted. With --kms, AWS KMS draws the key, and FILE holds it encrypted
(encryption_kms = true): it is of use to those only who may call kms:Decrypt.

It replaces nothing.`,
		Example: `  hpcc cache keygen ~/.config/hpcc/signing-key >> trusted-keys
  hpcc cache keygen --role worker --name w1 /etc/hpcc/w1.signing-key
  hpcc cache keygen --public ~/.config/hpcc/signing-key
  hpcc cache keygen --encryption /etc/hpcc/tier.key
  hpcc cache keygen --encryption --kms alias/hpcc /etc/hpcc/tier.key`,
		Args: oneArg("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			switch {
			case encryption && public:
				return usage{errors.New("--encryption and --public exclude each other: such a key has no public half")}
			case kmsKey != "" && !encryption:
				return usage{errors.New("--kms goes with --encryption")}
			case encryption:
				return a.makeEncryptionKey(cmd.Context(), file, kmsKey, aws)
			}
			if role != string(shared.RoleClient) && role != string(shared.RoleWorker) {
				return usage{fmt.Errorf("--role is %q: must be client or worker", role)}
			}
			var line string
			if public {
				s, err := shared.ReadSigner(file)
				if err != nil {
					return withHint(err, "without --public, a key is made")
				}
				line = s.Line(shared.Role(role))
				name = s.Name()
			} else if line, err = shared.GenerateKey(file, shared.Role(role), name); err != nil {
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
	cmd.Flags().BoolVar(&public, "public", false, "print the line of the key in FILE")
	cmd.Flags().StringVar(&kmsKey, "kms", "", "with --encryption, the KMS key that encrypts the file: id, ARN or alias")
	cmd.Flags().StringVar(&aws.Region, "region", "", "region of the KMS key")
	cmd.Flags().StringVar(&aws.Profile, "profile", "", "profile of the AWS configuration")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// makeEncryptionKey makes a key that encrypts objects, itself encrypted if kmsKey is
// not "".
func (a *app) makeEncryptionKey(ctx context.Context, file, kmsKey string, opt kms.Options) error {
	if kmsKey == "" {
		if err := store.CreateKey(file); err != nil {
			return keygenError(err, file)
		}
		a.note("whoever shares the tier needs %s", file)
		return nil
	}
	err := kms.Create(ctx, file, kmsKey, opt)
	if errors.Is(err, store.ErrDenied) {
		return withHint(err, "it takes kms:GenerateDataKeyWithoutPlaintext; whoever shares the tier, kms:Decrypt")
	}
	if err != nil {
		return keygenError(err, file)
	}
	a.note("whoever shares the tier needs %s, encryption_kms = true, and the right to kms:Decrypt", file)
	return nil
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
