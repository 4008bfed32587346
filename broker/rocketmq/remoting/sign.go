package remoting

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"slices"
)

// signer is what requests are signed with.
type signer struct{ accessKey, secretKey string }

// signer asks for the login of the moment; nil: requests are not signed.
func (c *Client) signer() (*signer, error) {
	if c.opts.Login == nil {
		return nil, nil
	}
	var s signer
	var err error
	s.accessKey, s.secretKey, err = c.opts.Login()
	return &s, err
}

// renew gives conn a signer that is another than the one that was refused, and says whether there is one.
func (c *Client) renew(conn *conn, refused *signer) bool {
	now, err := c.signer()
	if err != nil || now == nil || *now == *refused {
		return false
	}
	conn.signer.Store(now)
	return true
}

// sign returns req with RocketMQ's ACL fields.
func (s *signer) sign(req *Command) *Command {
	if s == nil {
		return req
	}
	r := *req
	r.Fields = map[string]string{}
	maps.Copy(r.Fields, req.Fields)
	r.Fields["AccessKey"] = s.accessKey
	r.Fields["Signature"] = Signature(&r, s.secretKey)
	return &r
}

// Signature is what the field Signature of a request must be: the HMAC-SHA1 of the values of the other fields in the order of
// their names, then the body.
func Signature(r *Command, secretKey string) string {
	mac := hmac.New(sha1.New, []byte(secretKey))
	for _, name := range slices.Sorted(maps.Keys(r.Fields)) {
		if name != "Signature" {
			mac.Write([]byte(r.Fields[name]))
		}
	}
	mac.Write(r.Body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
