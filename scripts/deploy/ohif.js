// Part of OHIF's app-config.js: a link to the report in the study list and in the header; docs/archive.md
const review = 'https://review.example.org/ui/open.html#';
let React; // OHIF's own, which it gives to createLogoComponentFn

const link = uid =>
  React.createElement(
    'a',
    {
      href: review + uid,
      target: '_blank',
      rel: 'noopener noreferrer',
      className: 'text-primary underline',
      onClick: event => event.stopPropagation(),
    },
    'Report'
  );

window.config = {
  // ... your data source and other settings
  whiteLabeling: {
    createLogoComponentFn: given => {
      React = given;
      const uid = new URLSearchParams(window.location.search).get('StudyInstanceUIDs');
      return uid ? link(uid) : undefined;
    },
  },
  customizationService: [
    {
      'workList.columns': {
        $apply: columns => [
          ...columns.slice(0, -1),
          {
            id: 'report',
            header: 'Report',
            meta: { label: 'Report', minWidth: 90 },
            enableSorting: false,
            cell: ({ row }) => link(row.original.studyInstanceUid),
          },
          ...columns.slice(-1), // the actions
        ],
      },
    },
  ],
};
