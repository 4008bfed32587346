package kafka

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
)

// scram is the client's side of RFC 5802 as Kafka uses it: no channel binding, no authorization id.
type scram struct {
	hash           func() hash.Hash
	login          func() (username, password string, err error)
	user, password string
	nonce          string // the client's
	first          string // client-first-message-bare
	signature      []byte // what the server must prove
	step           int
}

func newScram(mechanism string, login func() (username, password string, err error)) *scram {
	s := &scram{hash: sha512.New, login: login}
	if mechanism == sarama.SASLTypeSCRAMSHA256 {
		s.hash = sha256.New
	}
	return s
}

// Begin takes the login of the moment, and not that of sarama's configuration, which never changes.
func (s *scram) Begin(_, _, _ string) error {
	user, password, err := s.login()
	if err != nil {
		return passing(err)
	}
	s.user = strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user)
	s.password = password
	s.nonce = rand.Text()
	s.step = 0
	return nil
}

func (s *scram) Done() bool { return s.step == 3 }

func (s *scram) Step(challenge string) (string, error) {
	s.step++
	switch s.step {
	case 1:
		s.first = "n=" + s.user + ",r=" + s.nonce
		return "n,," + s.first, nil
	case 2:
		return s.prove(challenge)
	default:
		return "", s.verify(challenge)
	}
}

// prove answers the server-first-message with the client's proof.
func (s *scram) prove(challenge string) (string, error) {
	fields := scramFields(challenge)
	nonce := fields["r"]
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	iterations, erri := strconv.Atoi(fields["i"])
	if err != nil || erri != nil || iterations < 1 || !strings.HasPrefix(nonce, s.nonce) || len(nonce) == len(s.nonce) {
		return "", errors.New("SCRAM: the server's first message is malformed")
	}
	salted, err := pbkdf2.Key(s.hash, s.password, salt, iterations, s.hash().Size())
	if err != nil {
		return "", fmt.Errorf("SCRAM: %w", err)
	}
	final := "c=biws,r=" + nonce
	auth := s.first + "," + challenge + "," + final
	key := s.mac(salted, "Client Key")
	h := s.hash()
	h.Write(key)
	for i, b := range s.mac(h.Sum(nil), auth) {
		key[i] ^= b
	}
	s.signature = s.mac(s.mac(salted, "Server Key"), auth)
	return final + ",p=" + base64.StdEncoding.EncodeToString(key), nil
}

// verify checks the server-final-message: the server must know the password too.
func (s *scram) verify(challenge string) error {
	fields := scramFields(challenge)
	if fields["e"] != "" {
		return fmt.Errorf("SCRAM: the server refused: %s", fields["e"])
	}
	got, err := base64.StdEncoding.DecodeString(fields["v"])
	if err != nil || !hmac.Equal(got, s.signature) {
		return errors.New("SCRAM: the server could not prove that it knows the password")
	}
	return nil
}

func (s *scram) mac(key []byte, text string) []byte {
	m := hmac.New(s.hash, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func scramFields(message string) map[string]string {
	fields := make(map[string]string)
	for part := range strings.SplitSeq(message, ",") {
		if name, value, ok := strings.Cut(part, "="); ok {
			fields[name] = value
		}
	}
	return fields
}
