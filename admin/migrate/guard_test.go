package migrate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestGuardsAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]migrate.Guard{
		"draining:time=30m:pause":       {State: migrate.Draining, What: migrate.WatchTime, Limit: "30m", Do: migrate.PauseIt},
		"any:errors=0.5%:rollback":      {State: "any", What: migrate.WatchErrors, Limit: "0.5%", Do: migrate.RollBackToIt},
		"switching:p99=2.5:rollback":    {State: migrate.Switching, What: migrate.WatchP99, Limit: "2.5", Do: migrate.RollBackToIt},
		"closing:lag=0:page":            {State: migrate.Closing, What: migrate.WatchLag, Limit: "0", Do: migrate.Page},
		"planned:time=24h:rollback":     {State: migrate.Planned, What: migrate.WatchTime, Limit: "24h", Do: migrate.RollBackToIt},
		"reverting:time=1m30s:page":     {State: migrate.Reverting, What: migrate.WatchTime, Limit: "1m30s", Do: migrate.Page},
		"preparing:lag=100000:rollback": {State: migrate.Preparing, What: migrate.WatchLag, Limit: "100000", Do: migrate.RollBackToIt},
	} {
		g, err := migrate.ParseGuard(text)
		require.NoError(t, err)
		require.Equal(t, want, g)
		require.Equal(t, text, g.String())
	}
	require.Equal(t, "any:lag=7:page", migrate.Guard{What: migrate.WatchLag, Limit: "7", Do: migrate.Page}.String())
}

func TestGuardsThatCanNotWatchAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		"time=30m":                       "must be STATE:WHAT=LIMIT:DO",
		"draining:time:pause":            "must be STATE:WHAT=LIMIT:DO",
		":time=1h:page":                  "names no state: write any",
		"drainin:time=30m:pause":         `state is "drainin": must be any, `,
		"done:time=30m:pause":            `state is "done"`,
		"holding:time=30m:pause":         "is limited by hold",
		"fencing:time=30m:rollback":      "is limited by hold",
		"draining:tme=30m:pause":         `what is "tme": must be time, errors, p99 or lag`,
		"draining:time=30:pause":         `limit is "30": must be a duration of 1s or more`,
		"draining:time=0s:pause":         "must be a duration of 1s or more",
		"draining:errors=5:pause":        `limit is "5": must be above 0%`,
		"draining:errors=100%:pause":     "below 100%",
		"draining:errors=NaN%:pause":     "must be above 0%",
		"draining:p99=1:pause":           "must be a factor above 1",
		"draining:lag=-1:pause":          "must be a number of messages",
		"draining:lag=1.5:pause":         "must be a number of messages",
		"draining:time=30m:stop":         `do is "stop": must be page, pause or rollback`,
		"closing:time=30m:rollback":      "there is no way back from the state closing",
		"reverting:time=30m:rollback":    "there is no way back from the state reverting",
		"preparing:errors=1%:rollback":   "nothing is sent to the new cluster in the state preparing",
		"planned:lag=1:page":             "in the state planned",
		"draining:time=30m:pause:please": "must be STATE:WHAT=LIMIT:DO",
	} {
		_, err := migrate.ParseGuard(text)
		require.ErrorIs(t, err, errs.ErrInvalid, text)
		require.ErrorContains(t, err, says)
	}
	twice := migrate.Guard{What: migrate.WatchLag, Limit: "7", Do: migrate.Page}
	require.ErrorContains(t, migrate.CheckGuards([]migrate.Guard{twice, {State: "any", What: migrate.WatchLag, Limit: "7", Do: migrate.Page}}), "guards[1]: guard any:lag=7:page is there twice")
	require.ErrorContains(t, migrate.CheckGuards([]migrate.Guard{twice, {}}), "guards[1]: ")
	require.ErrorContains(t, migrate.CheckGuards(make([]migrate.Guard, 33)), "at most 32")
}
