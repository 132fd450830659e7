// Package kms keeps the key of an encrypted store (store.Sealed) encrypted itself,
// by a key that AWS KMS holds: who steals the file has nothing without the right to
// call kms:Decrypt, which can be taken away and is logged. KMS is asked once, when a
// program opens the store; it never sees an object.
package kms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go/logging"

	"hpcc.dev/hpcc/internal/store"
)

// contextKey and contextValue are the encryption context of every key: a policy
// can demand it, and KMS's log shows what a key was decrypted for.
const contextKey, contextValue = "application", "hpcc"

// maxBlob is the longest ciphertext that KMS decrypts, in bytes.
const maxBlob = 6144

// timeout of one call with all its retries. A program that starts waits for it.
const timeout = 15 * time.Second

// Options say which KMS is asked, and as whom; what is "" is the AWS
// configuration's.
type Options struct {
	Region, Profile string
	// Endpoint is a URL for a service other than AWS's.
	Endpoint string
}

// Key reads a file that Create wrote and has KMS decrypt the key in it. A file
// that is none, or a key of the wrong length, is an error that wraps
// store.ErrKeyFile; a refusal wraps store.ErrDenied, and what may pass
// store.ErrUnavailable.
func Key(ctx context.Context, file string, opt Options) ([]byte, error) {
	blob, err := readBlob(file)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client, err := connect(ctx, opt)
	if err != nil {
		return nil, err
	}
	out, err := client.Decrypt(ctx, &kms.DecryptInput{
		CiphertextBlob:    blob,
		EncryptionContext: map[string]string{contextKey: contextValue},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: kms:Decrypt: %w", file, classify(err))
	}
	if len(out.Plaintext) != store.SealKeySize {
		return nil, fmt.Errorf("%s: %w: KMS made %d bytes of it, want %d", file, store.ErrKeyFile, len(out.Plaintext), store.SealKeySize)
	}
	return out.Plaintext, nil
}

// Create has KMS draw a key and writes it, encrypted by the KMS key keyID (an id,
// ARN or alias), to a new file: base64 and a newline. The clear key leaves KMS at
// Key only. A file that is there already is an error that wraps fs.ErrExist.
func Create(ctx context.Context, file, keyID string, opt Options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client, err := connect(ctx, opt)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(file)
		}
	}()
	out, err := client.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{
		KeyId:             aws.String(keyID),
		KeySpec:           types.DataKeySpecAes256,
		EncryptionContext: map[string]string{contextKey: contextValue},
	})
	if err != nil {
		return fmt.Errorf("kms:GenerateDataKeyWithoutPlaintext: %w", classify(err))
	}
	if n := len(out.CiphertextBlob); n == 0 || n > maxBlob {
		return fmt.Errorf("%w: KMS answered with %d bytes", store.ErrCorrupt, n)
	}
	_, err = fmt.Fprintln(f, base64.StdEncoding.EncodeToString(out.CiphertextBlob))
	return errors.Join(err, f.Sync())
}

func connect(ctx context.Context, opt Options) (*kms.Client, error) {
	// What fails is in the error.
	load := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})}
	if opt.Region != "" {
		load = append(load, config.WithRegion(opt.Region))
	}
	if opt.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(opt.Profile))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	return kms.NewFromConfig(c, func(o *kms.Options) {
		if opt.Endpoint != "" {
			o.BaseEndpoint = aws.String(opt.Endpoint)
		}
	}), nil
}

// classify wraps err in one of package store's errors where one fits.
func classify(err error) error {
	var status interface{ HTTPStatusCode() int }
	var code interface{ ErrorCode() string }
	switch {
	case errors.As(err, new(*types.InvalidCiphertextException)), errors.As(err, new(*types.IncorrectKeyException)):
		return fmt.Errorf("%w: KMS did not encrypt it, or for another purpose: %w", store.ErrKeyFile, err)
	case errors.As(err, &code) && strings.HasPrefix(code.ErrorCode(), "Throttl"):
		// A status of 400 like refusals, but it passes.
	case errors.As(err, &status) && status.HTTPStatusCode() >= 400 && status.HTTPStatusCode() < 500:
		return fmt.Errorf("%w: %w", store.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// readBlob reads what Create wrote.
func readBlob(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// A third more as base64, and a line's end.
	text, err := io.ReadAll(io.LimitReader(f, 2*maxBlob))
	if err != nil {
		return nil, err
	}
	return decodeBlob(file, text)
}

func decodeBlob(file string, text []byte) ([]byte, error) {
	blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(blob) == 0 || len(blob) > maxBlob {
		return nil, fmt.Errorf("%s: %w: it must hold what KMS encrypted, as base64", file, store.ErrKeyFile)
	}
	return blob, nil
}
