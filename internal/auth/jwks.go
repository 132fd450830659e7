package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// jwk is a public Ed25519 key as RFC 7517 and RFC 8037 write it.
type jwk struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	Public    string `json:"x"`
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg,omitempty"`
	Use       string `json:"use,omitempty"`
	// Private is read to refuse it.
	Private string `json:"d,omitempty"`
}

type jwkSet struct {
	Keys []jwk `json:"keys"`
}

// encodeJWKS writes keys, which are as many as ids, in that order.
func encodeJWKS(ids []string, keys []ed25519.PublicKey) []byte {
	set := jwkSet{Keys: []jwk{}}
	for i, k := range keys {
		set.Keys = append(set.Keys, jwk{
			KeyType: "OKP", Curve: "Ed25519", Public: base64.RawURLEncoding.EncodeToString(k), KeyID: ids[i], Algorithm: "EdDSA", Use: "sig",
		})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(err) // strings alone
	}
	return b
}

// decodeJWKS returns the keys of a set that can sign task tokens, by name. Keys
// of other kinds are passed over, as RFC 7517 asks. A set with a private key is
// refused: whoever published it has lost it.
func decodeJWKS(b []byte) (map[string]ed25519.PublicKey, error) {
	if len(b) > MaxJWKS {
		return nil, fmt.Errorf("key set of %d bytes, more than %d", len(b), MaxJWKS)
	}
	var set jwkSet
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("key set is no JSON Web Key Set")
	}
	if len(set.Keys) > MaxKeys {
		return nil, fmt.Errorf("key set of %d keys, more than %d", len(set.Keys), MaxKeys)
	}
	keys := map[string]ed25519.PublicKey{}
	for _, k := range set.Keys {
		if k.Private != "" {
			return nil, errors.New("key set holds a private key")
		}
		if k.KeyType != "OKP" || k.Curve != "Ed25519" || k.Algorithm != "" && k.Algorithm != "EdDSA" || k.Use != "" && k.Use != "sig" {
			continue
		}
		x, err := base64.RawURLEncoding.Strict().DecodeString(k.Public)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return nil, errors.New("key set holds a key that is not of Ed25519")
		}
		if k.KeyID == "" || len(k.KeyID) > maxKeyID {
			return nil, fmt.Errorf("key set holds a key whose name is empty or longer than %d bytes", maxKeyID)
		}
		if _, twice := keys[k.KeyID]; twice {
			return nil, errors.New("key set holds two keys of one name")
		}
		keys[k.KeyID] = x
	}
	if len(keys) == 0 {
		return nil, errors.New("key set holds no Ed25519 key for signatures")
	}
	return keys, nil
}
