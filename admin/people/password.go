package people

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Hashing are the parameters of argon2id for new hashes. The zero value: those that RFC 9106 recommends second.
type Hashing struct {
	Memory  uint32 // KiB for one hash; 64 MiB
	Passes  uint32 // 3
	Threads uint8  // 4
	// AtOnce bounds how many hashes are made at once in this process, and so the memory; 2. Others wait.
	AtOnce int
}

func (h Hashing) withDefaults() Hashing {
	if h.Memory == 0 {
		h.Memory = 64 << 10
	}
	if h.Passes == 0 {
		h.Passes = 3
	}
	if h.Threads == 0 {
		h.Threads = 4
	}
	if h.AtOnce <= 0 {
		h.AtOnce = 2
	}
	return h
}

const (
	passwordLeast = 12   // characters
	passwordMost  = 1024 // bytes
	saltLength    = 16
	keyLength     = 32
)

// checkPassword says what is wrong with a new password. No error holds it.
func checkPassword(name, password string) error {
	without := strings.ReplaceAll(strings.ToLower(password), strings.ToLower(name), "")
	switch {
	case !utf8.ValidString(password) || len(password) > passwordMost:
		return fmt.Errorf("%w: password: must be UTF-8 text of at most %d bytes", errs.ErrInvalid, passwordMost)
	case utf8.RuneCountInString(password) < passwordLeast:
		return fmt.Errorf("%w: password: must have at least %d characters", errs.ErrInvalid, passwordLeast)
	case utf8.RuneCountInString(without) < passwordLeast:
		return fmt.Errorf("%w: password: must have at least %d characters without the name %q in it", errs.ErrInvalid, passwordLeast, name)
	}
	return nil
}

// hasher makes hashes of passwords and compares with them. A hash is written as in the reference implementation:
// $argon2id$v=19$m=65536,t=3,p=4$SALT$KEY.
type hasher struct {
	Hashing
	slots *semaphore.Weighted
}

func newHasher(h Hashing) *hasher {
	h = h.withDefaults()
	return &hasher{Hashing: h, slots: semaphore.NewWeighted(int64(h.AtOnce))}
}

// hash waits, until ctx ends, for others to be done.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltLength)
	_, _ = rand.Read(salt) // never fails
	key, err := h.key(ctx, password, hashed{Hashing: h.Hashing, salt: salt, key: make([]byte, keyLength)})
	if err != nil {
		return "", err
	}
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.Memory, h.Passes, h.Threads, encode(salt), encode(key)), nil
}

// compare says whether the password is that of the stored hash, and whether that was made with other parameters than a
// new one would be. With "" it does the same work and says no.
func (h *hasher) compare(ctx context.Context, password, stored string) (same, old bool, err error) {
	of, known := parseHash(stored)
	if !known {
		of = hashed{Hashing: h.Hashing, salt: make([]byte, saltLength), key: make([]byte, keyLength)}
	}
	key, err := h.key(ctx, password, of)
	if err != nil {
		return false, false, err
	}
	same = subtle.ConstantTimeCompare(key, of.key) == 1 && known
	old = of.Memory != h.Memory || of.Passes != h.Passes || of.Threads != h.Threads || len(of.key) != keyLength
	return same, old, nil
}

func (h *hasher) key(ctx context.Context, password string, of hashed) ([]byte, error) {
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("waiting for other passwords to be looked at: %w", err)
	}
	defer h.slots.Release(1)
	return argon2.IDKey([]byte(password), of.salt, of.Passes, of.Memory, of.Threads, uint32(len(of.key))), nil
}

type hashed struct {
	Hashing
	salt, key []byte
}

func parseHash(stored string) (h hashed, known bool) {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return h, false
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.Memory, &h.Passes, &h.Threads); n != 3 || err != nil {
		return h, false
	}
	var errSalt, errKey error
	h.salt, errSalt = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, errKey = base64.RawStdEncoding.DecodeString(parts[5])
	return h, errSalt == nil && errKey == nil && h.Passes > 0 && h.Threads > 0 && len(h.salt) > 0 && len(h.key) >= 16
}
