package people

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"regexp"
	"strings"
)

// Tokens look like turnout_ and 44 letters and digits, of which the last 6 are a checksum of what is before them: scanners
// of repositories find them, and one that was mistyped is refused without a look at the store.
const (
	tokenPrefix   = "turnout_"
	oneTimePrefix = "turnout_once_"
	randomLength  = 38 // 226 bits
	alphabet      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

var secretRule = regexp.MustCompile(`^(turnout_|turnout_once_)[0-9A-Za-z]{44}$`)

func newSecret(prefix string) string {
	s := prefix + random(randomLength)
	return s + checksum(s)
}

// wellFormed says whether s may have been made by newSecret.
func wellFormed(prefix, s string) bool {
	m := secretRule.FindStringSubmatch(s)
	return m != nil && m[1] == prefix && checksum(s[:len(s)-6]) == s[len(s)-6:]
}

func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var out [6]byte
	for i := range out {
		out[len(out)-1-i] = alphabet[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// random is so many letters and digits, each as likely as the others.
func random(n int) string {
	var out strings.Builder
	chunk := make([]byte, 2*n)
	for out.Len() < n {
		_, _ = rand.Read(chunk) // never fails
		for _, b := range chunk {
			if b < 4*62 && out.Len() < n {
				out.WriteByte(alphabet[b%62])
			}
		}
	}
	return out.String()
}

// digest is what is stored of a secret. It is looked up by that: how long the look-up takes says nothing about a secret.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// csrfOf is the CSRF token that belongs to a session: only who knows its secret can make it.
func csrfOf(session string) string {
	mac := hmac.New(sha256.New, []byte(session))
	mac.Write([]byte("turnout csrf"))
	return hex.EncodeToString(mac.Sum(nil))
}
