package kafka

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
)

// plainConn puts the login of the moment into the SASL PLAIN exchange: sarama has one for the life of a client. For SCRAM
// it asks us (scram).
type plainConn struct {
	net.Conn
	login func() (username, password string, err error)
}

// A request is: length 4, key 2, version 2, correlation id 4, client id 2+n, …; of SaslAuthenticate there follow
//   - versions 0 and 1: length 4, the exchange's bytes;
//   - version 2: no tags 1, length+1 as a varint, the exchange's bytes, no tags 1.
const (
	saslAuthenticate = 36
	requestKey       = 4
	requestVersion   = 6
	requestClientID  = 12
	requestHead      = 14 // and the client id
)

// Write is called once for each request.
func (c *plainConn) Write(b []byte) (int, error) {
	if len(b) < requestHead || binary.BigEndian.Uint16(b[requestKey:]) != saslAuthenticate {
		return c.Conn.Write(b)
	}
	user, password, err := c.login()
	if err != nil {
		return 0, passing(err)
	}
	head := requestHead + int(binary.BigEndian.Uint16(b[requestClientID:]))
	if head > len(b) {
		return 0, errors.New("SASL: a request that is shorter than its client id")
	}
	exchange := "\x00" + user + "\x00" + password
	out := slices.Clone(b[:head])
	switch version := binary.BigEndian.Uint16(b[requestVersion:]); version {
	case 0, 1:
		out = binary.BigEndian.AppendUint32(out, uint32(len(exchange)))
		out = append(out, exchange...)
	default:
		out = binary.AppendUvarint(append(out, 0), uint64(len(exchange)+1))
		out = append(append(out, exchange...), 0)
	}
	binary.BigEndian.PutUint32(out, uint32(len(out)-requestKey))
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
