package stress

import (
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/shadowack"
)

// TaskPlan is what a stress task would be made of.
type TaskPlan struct {
	Task     string              `json:"task"`
	Apps     []string            `json:"apps" doc:"the applications of its groups"`
	Groups   []PlannedGroup      `json:"groups"`
	Topics   []store.StressTopic `json:"topics" doc:"the shadow topics; made and madeThere say what is missing now and would be made"`
	Notes    []string            `json:"notes" doc:"what does not keep it from being made, and may surprise"`
	Problems []string            `json:"problems" doc:"what keeps it from being made, with remedies"`
}

// PlannedGroup is a group of a task.
type PlannedGroup struct {
	Group       string `json:"group"`
	App         string `json:"app"`
	ShadowGroup string `json:"shadowGroup"`
	Flag        string `json:"flag" doc:"path of its flag in ZooKeeper"`
}

// TaskView is a task with what its flags and the instances say now.
type TaskView struct {
	*store.StressTask
	Groups  []GroupView `json:"groups"`
	Pending []string    `json:"pending" doc:"the running instances that have not done yet what the flags say"`
}

// GroupView is a group of a task as it is now.
type GroupView struct {
	Group     string             `json:"group"`
	App       string             `json:"app"`
	Flag      string             `json:"flag" doc:"path of its flag"`
	Exists    bool               `json:"exists" doc:"there is a flag"`
	Enabled   bool               `json:"enabled" doc:"by this task"`
	Problem   string             `json:"problem,omitempty" doc:"why what is in the flag does not count"`
	Others    []string           `json:"others" doc:"other tasks that enable it"`
	Instances []shadowack.Report `json:"instances" doc:"what the running instances of the application say of it"`
}
